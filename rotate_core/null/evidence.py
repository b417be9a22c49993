"""Evidence of a channel: its tail's tokens in the neuron's own projection (ours)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.decomposition import projection_factor, row_factors, scaled
from rotate_core.rotation.tails import sides, z_scores

N_CORE = 10
"""Tokens that make a channel's core."""
MEMORY = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Bytes of z-scores at a time: a GPU wants few, large launches."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tails:
    """The whole tail of each channel, tokens of weight 0 left out; ragged, on the CPU.

    Channel ``j`` of neuron ``i`` is number ``i * n_channels + j`` and has the entries
    ``offsets[number]`` to ``offsets[number + 1]``.
    """

    offsets: Int[Tensor, " n_tails_and_1"]
    """int64, from 0 to the number of entries."""
    ids: Int[Tensor, " n_entries"]
    """Token numbers, int32, ascending within a tail."""
    z: Float[Tensor, " n_entries"]
    """The tokens' z-scores in the channel's projection, with their sign; at least float32."""

    def mask(self, d_vocab: int) -> Bool[Tensor, "n_tails d_vocab"]:
        """Which tokens are in each tail."""
        n_tails = len(self.offsets) - 1
        number = torch.arange(n_tails).repeat_interleave(self.offsets.diff())
        mask = torch.zeros(n_tails, d_vocab, dtype=torch.bool)
        mask[number, self.ids.long()] = True
        return mask


@dataclasses.dataclass(frozen=True)
class TailEvidence:
    """The tokens of each channel's tail in the neuron's own projection ``U^T w``.

    All fields but ``tails`` are (n_neurons, n_channels), float64. Their z-scores are of the
    unweighted projection, signed by the side of the channel's tail that a token is on. All but
    ``support`` count a token for the first channel that has it in its tail only: the tokens of a
    neuron's first channel stay far out in the projections of its later ones, which would so be
    certified by what is not theirs.
    """

    support: Tensor
    """Mean z-score in ``U^T w`` of all of the tail's tokens; 0 where there are none."""
    own_support: Tensor
    """The same over the tokens that no earlier channel of the neuron has in its tail."""
    core: Tensor
    """Mean z-score of the ten of these that are furthest out, 0 where one is missing or below 0."""
    peak: Tensor
    """The largest z-score of these, at least 0."""
    share: Tensor
    """Share of the variance of ``U^T w`` that these carry, on the tail's side."""
    tails: Tails
    """The tails themselves, with their z-scores in the channels' projections."""


EVIDENCE = ("core", "support", "own_support", "peak", "share")
STATISTICS = (*EVIDENCE, "cosine", "objective", "kurtosis")
"""Figures that a channel can be ranked by; larger speaks for the channel. The book compares their
power: "core", the default, finds twice as many planted channels as "support" or "cosine" do. The
first five are of :class:`TailEvidence`, the others of the channels."""


def tail_evidence(channels: Channels) -> TailEvidence:
    """Look up the tokens of each channel's tail in the neuron's own projection.

    The tail is what the decomposition masks: tokens whose z-score in ``U^T c`` is beyond the
    threshold, on the channel's heavy side or on both; tokens of weight 0 are left out. Every vector
    is projected once, on U's device, as many neurons at a time as :data:`MEMORY` allows.

    Raises:
        ValueError: evidence that is not finite.
    """
    n_neurons, n_channels = channels.vectors.shape[:2]
    projection = channels.vocabulary.projection
    each = 4 * (n_channels + 1) * projection.shape[1]
    size = max(1, MEMORY["cpu" if projection.device.type == "cpu" else "cuda"] // each)
    values = {name: torch.zeros(n_neurons, n_channels, dtype=torch.float64) for name in EVIDENCE}
    numbers, ids, z = [], [], []
    for rows in torch.arange(n_neurons).split(size):
        for k, (of_channels, number, token, score) in enumerate(_by_channel(channels, rows)):
            for name in EVIDENCE:
                values[name][rows, k] = of_channels[name].double().cpu()
            numbers.append(rows[number.cpu()] * n_channels + k)
            ids.append(token.cpu())
            z.append(score.cpu())
    for name, value in values.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} is not finite; wanted finite channels, over finite weights")
    number = torch.cat(numbers)
    order = number.argsort(stable=True)
    lengths = number.bincount(minlength=n_neurons * n_channels)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return TailEvidence(
        **values, tails=Tails(offsets, torch.cat(ids)[order].int(), torch.cat(z)[order])
    )


def _by_channel(
    channels: Channels, rows: Int[Tensor, " n"]
) -> Iterable[tuple[dict[str, Tensor], Tensor, Tensor, Tensor]]:
    """For each channel of some neurons: its evidence; rows, tokens and z-scores of its tails."""
    projection = channels.vocabulary.projection
    allowed = channels.vocabulary.token_weights.to(projection.device) > 0
    polarity = channels.polarity[rows].to(projection.device)
    vectors = torch.cat([channels.vectors[rows], channels.weight_vectors[rows, None]], 1)
    flat = vectors.flatten(0, 1)
    flat = scaled(flat, row_factors(flat) * projection_factor(projection))
    z = z_scores(flat, projection).unflatten(0, (len(rows), -1))
    earlier = torch.zeros_like(z[:, 0], dtype=torch.bool)
    for k in range(polarity.shape[1]):
        side = sides(z[:, k], polarity[:, k])
        inside = (z[:, k] * side > channels.settings.threshold) & allowed
        own, earlier = inside & ~earlier, earlier | inside
        of_neuron = z[:, -1] * side
        furthest = (of_neuron * own).clamp_min_(0)
        top = furthest.topk(min(N_CORE, furthest.shape[1]), dim=1).values
        evidence = {
            "support": _mean(of_neuron, inside),
            "own_support": _mean(of_neuron, own),
            "core": top.sum(1) / N_CORE,
            "peak": top[:, 0],
            "share": furthest.square_().mean(1, dtype=torch.float64),
        }
        number, token = inside.nonzero(as_tuple=True)
        yield evidence, number, token, z[:, k][inside]


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Row means of the values where they count; 0 where none does."""
    return (values * where).sum(1, dtype=torch.float64) / where.sum(1).clamp_min(1)


def support(channels: Channels) -> Float[Tensor, "n_neurons n_channels"]:
    """Mean z-score, in the neuron's own projection, of the tokens of a channel's tail; float64."""
    return tail_evidence(channels).support


def statistics(
    channels: Channels, names: Iterable[str] = STATISTICS
) -> dict[str, Float[Tensor, "n_neurons n_channels"]]:
    """The values of each statistic by name; what needs the tails looks them up once.

    Args:
        channels: whose.
        names: which.

    Raises:
        ValueError: an unknown statistic.
    """
    names = tuple(names)
    for name in names:
        if name not in STATISTICS:
            raise ValueError(f"statistic={name!r}: wanted one of {', '.join(STATISTICS)}")
    evidence = tail_evidence(channels) if set(names) & set(EVIDENCE) else None
    return {name: getattr(evidence if name in EVIDENCE else channels, name) for name in names}
