"""What the tokens of a channel's tail are in its neuron's own projection (ours)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.rotation.moments import Sample
from rotate_core.rotation.tails import Tails, sides

N_CORE = 10
"""Tokens that make a channel's core."""


@dataclasses.dataclass(frozen=True)
class TailEvidence:
    """What the tokens of each channel's tail are in the neuron's own projection ``U^T w``.

    All fields but ``tails`` are (n_neurons, n_channels). Their z-scores are of the unweighted
    projection, signed by the side of the channel's tail that a token is on. All but ``support``
    count a token for the first channel that has it in its tail only: the tokens of a neuron's first
    channel stay far out in the projections of its later ones, which would so be certified by what
    is not theirs.
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


def tail_evidence(channels: Channels) -> TailEvidence:
    """Look up the tokens of each channel's tail in the neuron's own projection.

    The tail is what the decomposition masks: tokens whose z-score in ``U^T c`` is beyond the
    threshold, on the channel's heavy side or on both; tokens of weight 0 are left out.
    Works through the vocabulary block by block, twice.
    """
    sample = Sample.uniform(channels.vocabulary.projection)
    projection = sample.projection  # at least float32, whatever U is kept in
    allowed = channels.vocabulary.token_weights.to(projection.device) > 0
    shape = channels.vectors.shape[:2]
    rows = channels.vectors.flatten(0, 1).to(projection)
    neurons = channels.weight_vectors.to(projection)
    both = torch.cat([rows, neurons])
    polarity = channels.polarity.flatten().to(projection)

    variance = both.new_zeros(len(both), dtype=torch.float64)
    for block in sample.blocks(len(both)):
        z = both.new_empty(len(both), block.stop - block.start)
        variance += sample.project(both, block, z).square_().sum(1)
    scale = (variance / projection.shape[1]).rsqrt().to(projection.dtype).unsqueeze(1)

    total, n_tail, own_total, n_own, share = torch.zeros(
        5, len(rows), dtype=torch.float64, device=projection.device
    )
    furthest = both.new_zeros(len(rows), N_CORE)
    tails = []
    for block in sample.blocks(len(both)):
        z = both.new_empty(len(both), block.stop - block.start)
        z = sample.project(both, block, z).mul_(scale)
        of_channel, of_neuron = z[: len(rows)], z[len(rows) :].repeat_interleave(shape[1], dim=0)
        side = sides(of_channel, polarity)
        inside = (of_channel * side > channels.settings.threshold) & allowed[block]
        number, column = inside.nonzero(as_tuple=True)
        tails.append((number, column + block.start, of_channel[inside]))
        earlier = (
            inside.view(*shape, -1).cumsum(1).flatten(0, 1) - inside.int()
        )  # in how many tails
        new = inside & (earlier == 0)
        of_neuron *= side
        total += (of_neuron * inside).sum(1)
        n_tail += inside.sum(1)
        of_neuron *= new
        own_total += of_neuron.sum(1)
        n_own += new.sum(1)
        of_neuron.clamp_min_(0)
        share += of_neuron.square().sum(1)
        furthest = torch.cat([furthest, of_neuron], 1).topk(N_CORE).values

    def shaped(values: Tensor) -> Tensor:
        return values.double().view(shape).cpu()

    return TailEvidence(
        support=shaped(total / n_tail.clamp_min(1)),
        own_support=shaped(own_total / n_own.clamp_min(1)),
        core=shaped(furthest.mean(1)),
        peak=shaped(furthest[:, 0]),
        share=shaped(share / projection.shape[1]),
        tails=Tails.collect(len(rows), tails),
    )


def support(channels: Channels) -> Float[Tensor, "n_neurons n_channels"]:
    """Mean z-score, in the neuron's own projection, of the tokens of a channel's tail; float64."""
    return tail_evidence(channels).support


EVIDENCE = ("core", "support", "own_support", "peak", "share")
STATISTICS = (*EVIDENCE, "cosine", "objective", "kurtosis")
"""What a channel can be ranked by; larger speaks for the channel. The book compares their power:
"core", the default, finds twice as many planted channels as "support" or "cosine" do. The first
five are of :class:`TailEvidence`, the others of the channels."""


def statistics(
    channels: Channels,
    names: Iterable[str] = STATISTICS,
    *,
    evidence: TailEvidence | None = None,
) -> dict[str, Float[Tensor, "n_neurons n_channels"]]:
    """The values of each statistic by name; what needs the tails looks them up once.

    Args:
        channels: whose.
        names: which.
        evidence: :func:`tail_evidence` of the channels where it is at hand.

    Raises:
        ValueError: an unknown statistic.
    """
    names = tuple(names)
    for name in names:
        if name not in STATISTICS:
            raise ValueError(f"statistic={name!r}: wanted one of {', '.join(STATISTICS)}")
    if evidence is None and set(names) & set(EVIDENCE):
        evidence = tail_evidence(channels)
    return {name: getattr(evidence if name in EVIDENCE else channels, name) for name in names}
