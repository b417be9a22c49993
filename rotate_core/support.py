"""Is a channel the neuron's, or the vocabulary's? Support, two nulls, p-values and q-values (ours).

High kurtosis and a high cosine do not show that a channel belongs to its neuron: a rotation finds a
sparse vocabulary direction near *any* vector. So every channel is measured against channels that
cannot mean anything:

*matched vectors*     vectors drawn with the layer's mean and covariance, put through the same
                      decomposition. A p-value is the rank of a channel among theirs.
*matched rotations*   random directions at the channel's own cosine with its neuron: what any
                      ablation or reconstruction along such a direction would do.

None of this is in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Calibration, Channels
from rotate_core.kurtosis import Sample
from rotate_core.tails import Tails, sides

N_CORE = 10
"""Tokens that make a channel's core."""
EXCEEDANCES = 0.2
"""Share of a null's values that its tail is modelled on."""


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
    polarity = channels.tail.flatten().to(projection)

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


def own_seed(seed: int, *names: int | str) -> int:
    """A seed for one layer, neuron, split, ... alone, so that no two share their draws.

    Two draws from one seed are the same draw: of as many positions, say, the same ones. Their
    errors then add up where a mean over neurons should cancel them.

    Args:
        seed: of the run.
        names: of whom it is for; the same names give the same seed, whoever else draws.

    Returns:
        64 bits.
    """
    entropy = int.from_bytes(repr((seed, *names)).encode(), "big")
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def matched_vectors(
    layer_vectors: Float[Tensor, "n_mlp d_model"], n: int, *, seed: int = 0
) -> Float[Tensor, "n d_model"]:
    """Gaussian vectors with the mean and the covariance of a layer's neurons: no neuron, yet alike.

    Drawn as ``mean + (W - mean)^T g / sqrt(n_mlp - 1)``, g standard normal: exact without forming
    the covariance, and valid where the layer has fewer neurons than ``d_model``.

    Args:
        layer_vectors: all weight vectors of one layer and kind.
        n: how many.
        seed: vector i depends on the seed and i alone, not on n.
    """
    if layer_vectors.ndim != 2 or len(layer_vectors) < 2:
        raise ValueError(
            f"layer_vectors of shape {tuple(layer_vectors.shape)}: wanted (n_mlp > 1, d_model)"
        )
    if n < 1:
        raise ValueError(f"n={n}: wanted at least 1")
    mean = layer_vectors.mean(0)
    root = (layer_vectors - mean) / (len(layer_vectors) - 1) ** 0.5
    draws = [torch.randn(len(root), generator=_generator(seed, i)) for i in range(n)]
    return mean + torch.stack(draws).to(root) @ root


def matched_rotations(
    channels: Channels, n: int, *, seed: int = 0
) -> Float[Tensor, "n n_neurons n_channels d_model"]:
    """Random directions at each channel's own cosine with its neuron, of the neuron's norm.

    ``rho * w/|w| + sqrt(1 - rho^2) * t``, t a random unit vector orthogonal to w.

    Args:
        channels: whose cosines and neurons to match.
        n: how many for each channel.
        seed: rotation i depends on the seed, i, the channels' layer and kind, and the shape; not
            on n.
    """
    if n < 1:
        raise ValueError(f"n={n}: wanted at least 1")
    w = channels.weight_vectors.unsqueeze(1)
    norm = w.norm(dim=-1, keepdim=True)
    w_unit = w / norm
    rho = torch.cosine_similarity(channels.vectors, w, dim=-1).unsqueeze(-1)
    shape = channels.vectors.shape
    own = own_seed(seed, str(channels.layer), str(channels.kind))
    draws = [torch.randn(shape, generator=_generator(own, i)) for i in range(n)]
    tangent = torch.stack(draws).to(w)
    tangent -= w_unit * (tangent * w_unit).sum(-1, keepdim=True)
    tangent /= tangent.norm(dim=-1, keepdim=True)
    return norm * (rho * w_unit + (1 - rho**2).clamp_min(0).sqrt() * tangent)


def p_values(
    observed: Float[Tensor, "n_neurons n_channels"],
    null: Float[Tensor, "n_null n_channels"],
    *,
    extrapolate: bool = True,
) -> Float[Tensor, "n_neurons n_channels"]:
    """How likely a matched vector is to have a statistic as large; float64, position by position.

    The rank, ``(r + 1) / (n + 1)``, with r of the null's n values at the same position no smaller:
    valid whatever the null's distribution. Where ``r = 0`` a rank can say no more than
    ``1 / (n + 1)``, however far out the value is. So beyond the largest value of the null its tail
    is extrapolated: with u the (k + 1)-th largest of the null, k a fifth of n, and S the sum of
    what the k above it have more than u,

        p = min(1 / (n + 1), (k + 1) / (n + 1) * (1 + (x - u) / S) ** -k) .

    The second term is exactly uniform where the tail is exponential, for any n and k: it is the
    predictive distribution, the scale integrated out, and not the fitted one. Where the tail is
    lighter, as that of every null that we measured (benchmarks/calibration.py), it is conservative.

    Args:
        observed: of neurons.
        null: of matched vectors; a neuron's first channel is not like its fifth, so a position is
            compared with the same position. It needs as many positions.
        extrapolate: False for ranks alone.

    Raises:
        ValueError: shapes that do not fit, or an empty null.

    Source: Davison and Hinkley (1997), section 4.2, for ranks; Knijnenburg et al. (2009),
    Bioinformatics 25:i161, for a model of the tail above the null's 80th percentile. They fit a
    generalised Pareto distribution. With 100 vectors that gives far too many small p-values
    (chapter 4 compares the two), so ours is the exponential one, with the fit's uncertainty in it.
    """
    if observed.ndim != 2 or null.ndim != 2 or not len(null):
        raise ValueError(
            f"observed {tuple(observed.shape)}, null {tuple(null.shape)}: wanted two-dimensional, "
            "the null not empty"
        )
    if observed.shape[1] > null.shape[1]:
        raise ValueError(
            f"{observed.shape[1]} channels a neuron, {null.shape[1]} in the null: wanted as many"
        )
    n, k = len(null), int(EXCEEDANCES * len(null))
    x = observed.double().T.contiguous()
    ascending = null[:, : observed.shape[1]].double().T.contiguous().sort(1).values
    p = (n - torch.searchsorted(ascending, x) + 1).double() / (n + 1)
    if extrapolate and k:
        u = ascending[:, -k - 1].unsqueeze(1)
        total = (ascending[:, -k:] - u).sum(1, keepdim=True)
        tail = (
            (k + 1) / (n + 1) * (1 + (x - u) / total) ** -k
        )  # NaN or 0 where the top is one value
        p = torch.where((x > ascending[:, -1:]) & (total > 0), torch.minimum(p, tail), p)
    return p.T


def q_values(
    p: Float[Tensor, "n_neurons n_channels"],
) -> Float[Tensor, "n_neurons n_channels"]:
    """Benjamini-Hochberg adjusted p-values: of the channels with q < 0.1, a tenth is false at most.

    Adjusted over the neurons, for each position by itself. The null is one per position as well,
    and evidence thins out from channel to channel: taken together, the empty positions would drown
    the first.

    Source: Benjamini and Hochberg (1995), as scipy computes it.
    """
    from scipy.stats import false_discovery_control

    return torch.from_numpy(false_discovery_control(p.double().numpy(), axis=0, method="bh"))


def calibrate(channels: Channels, null: Channels, *, statistic: str = "core") -> Channels:
    """The same channels with support, p-value and q-value, from a null run the same way.

    Args:
        channels: of one layer and kind: q-values are over its neurons.
        null: :func:`matched_vectors` decomposed with the same settings and vocabulary.
        statistic: one of :data:`STATISTICS`.

    Raises:
        ValueError: an unknown statistic; a null with other settings or vocabulary, or too few
            channels.

    Warns:
        CalibrationWarning: see :meth:`Calibration.warn`.
    """
    if channels.settings != null.settings:
        raise ValueError(
            f"the null has {null.settings}, the channels {channels.settings}: wanted the same"
        )
    if channels.vocabulary.projection.shape != null.vocabulary.projection.shape:
        raise ValueError("the null and the channels have vocabularies of different shapes")
    values = statistics(channels, ("support", statistic))
    p = p_values(values[statistic], statistics(null, (statistic,))[statistic])
    calibration = Calibration(channels.n_neurons, null.n_neurons, statistic)
    calibration.warn(stacklevel=2)
    return dataclasses.replace(
        channels,
        support=values["support"],
        p_value=p,
        q_value=q_values(p),
        calibration=calibration,
    )


def _generator(seed: int, i: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + i * 0x85EBCA77 + 1) % 2**63)
