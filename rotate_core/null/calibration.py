"""p- and q-values of channels against a null: is a channel the neuron's, or the vocabulary's?

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
import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.evidence import statistics

SIGNIFICANT = 0.1
"""Channels with a q-value below this count as the neuron's; a tenth of them is not, at most."""
EXCEEDANCES = 0.2
"""Share of a null's values that its tail is modelled on."""


class CalibrationWarning(UserWarning):
    """The null is too small for any of the channels to be certified."""


@dataclass(frozen=True)
class Calibration:
    """The numbers that p- and q-values were made from, and so what they are able to say."""

    n_neurons: int
    """Neurons that a q-value is adjusted over, position by position; 0 where there is none."""
    n_null: int
    """Matched vectors behind a p-value."""
    statistic: str = "core"
    """What channels are ranked by."""
    added: bool = False
    """Whether one of the neurons was added to the others to have a q-value among them."""
    of: str = "neuron"
    """What q-values are adjusted over, one of them: "neuron", or "direction"."""

    def fewest(self) -> int:
        """Channels of one position that have to share the smallest rank before any is significant.

        With ranks alone no p-value is below ``1 / (n_null + 1)``, so Benjamini-Hochberg certifies
        nothing unless ``n_neurons / (SIGNIFICANT (n_null + 1))`` channels or more are beyond all
        matched vectors. p-values that are extrapolated have no such floor, but what they say below
        ``1 / (n_null + 1)`` is as good as the model of the null's tail.
        """
        return max(1, math.ceil(self.n_neurons / (SIGNIFICANT * (self.n_null + 1)) - 1e-9))

    @property
    def extrapolated(self) -> bool:
        """Whether the null is large enough for a model of its tail: five matched vectors."""
        return self.n_null >= 5

    def warn(self, *, stacklevel: int = 1) -> None:
        """Warn where nothing can be certified: ranks alone, and their floor above all neurons.

        Warns:
            CalibrationWarning: with the number of matched vectors that would do.
        """
        if not self.extrapolated and self.fewest() > self.n_neurons:
            warnings.warn(
                f"{self.n_null} matched vectors can certify no channel at q < {SIGNIFICANT:g}: "
                f"wanted at least {math.ceil(1 / SIGNIFICANT) - 1}",
                CalibrationWarning,
                stacklevel=stacklevel + 1,
            )

    def __str__(self) -> str:
        null = _count(self.n_null, "matched vector")
        if not self.n_neurons:
            return f"p against {null}; no q-value: nothing to adjust over"
        neurons = _count(self.n_neurons, self.of)
        if self.added:
            neurons = f"{_count(self.n_neurons - 1, f'other {self.of}')} with this one added"
        least = f"p below {1 / (self.n_null + 1):.2g}"
        beyond = f"{least} is extrapolated" if self.extrapolated else f"no {least}"
        many = self.fewest()
        floor = f", ranks alone would need {many} beyond all of these for q < {SIGNIFICANT:g}"
        return f"q over {neurons}, p against {null}: {beyond}{floor if many > 1 else ''}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def p_values(
    observed: Float[Tensor, "n_neurons n_channels"],
    null: Float[Tensor, "n_null n_channels"],
    *,
    extrapolate: bool = True,
) -> Float[Tensor, "n_neurons n_channels"]:
    """The chance of a matched vector to have a statistic as large; float64, position by position.

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
        ValueError: shapes that do not fit, an empty null, or a value that is not finite.

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
    if not (observed.isfinite().all() and null.isfinite().all()):  # a NaN would get the best
        raise ValueError("observed or null are not finite: wanted numbers alone")
    _check_positions(observed.shape[1], null)
    n, k = len(null), int(EXCEEDANCES * len(null))
    x = observed.double().T.contiguous()
    ascending = null[:, : observed.shape[1]].double().T.contiguous().sort(1).values
    p = (n - torch.searchsorted(ascending, x) + 1).double() / (n + 1)
    if extrapolate and k:
        u = ascending[:, -k - 1].unsqueeze(1)
        total = (ascending[:, -k:] - u).sum(1, keepdim=True)
        # NaN or 0 where the null's top is one value
        tail = (k + 1) / (n + 1) * (1 + (x - u) / total) ** -k
        p = torch.where((x > ascending[:, -1:]) & (total > 0), torch.minimum(p, tail), p)
    return p.T


def _check_positions(n_channels: int, null: Tensor) -> None:
    if n_channels > null.shape[1]:
        raise ValueError(
            f"{n_channels} channels a neuron, {null.shape[1]} in the null: wanted as many"
        )


def q_values(
    p: Float[Tensor, "n_neurons n_channels"],
    others: Float[Tensor, "n_others n_channels"] | None = None,
) -> Float[Tensor, "n_neurons n_channels"]:
    """Benjamini-Hochberg adjusted p-values: of the channels with q < 0.1, a tenth is false at most.

    Adjusted over the neurons, for each position by itself. The null is one per position as well,
    and evidence thins out from channel to channel: taken together, the empty positions would drown
    the first.

    Args:
        p: of neurons.
        others: p-values of further neurons to adjust over, whose own are not returned.

    Source: Benjamini and Hochberg (1995), as scipy computes it.
    """
    from scipy.stats import false_discovery_control

    every = p if others is None else torch.cat([p, others])
    q = false_discovery_control(every.double().numpy(), axis=0, method="bh")
    return torch.from_numpy(q)[: len(p)]


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
    values = statistics(null, (statistic,))[statistic]
    _check_positions(channels.n_channels, values)
    Calibration(channels.n_neurons, null.n_neurons, statistic).warn(stacklevel=2)
    return calibrate_among(channels, values, values[:0], statistic=statistic)


def calibrate_among(
    channels: Channels,
    null: Float[Tensor, "n_null n_channels"],
    others: Float[Tensor, "n_others n_channels"] | None,
    *,
    statistic: str = "core",
) -> Channels:
    """Channels with support, p-value and, where there are others to adjust among, q-value.

    :func:`calibrate` with a null's values at hand. Ours: a neuron that is looked at because it was
    chosen counts as one of its layer's, not as the only one.

    Args:
        channels: decomposed as the null and the others were; of one neuron if there are others.
        null: the statistic's values of matched vectors' channels.
        others: p-values of the layer's other neurons, the channels' own left out; empty where q is
            over the channels' own neurons; None for no q-values.
        statistic: one of :data:`STATISTICS`.

    Returns:
        p and q are NaN at positions that the null does not reach.
    """
    values = statistics(channels, ("support", statistic))
    n = min(channels.n_channels, null.shape[1])
    p = torch.full_like(values["support"], torch.nan, dtype=torch.float64)
    p[:, :n] = p_values(values[statistic][:, :n], null)
    q, n_neurons = None, 0
    if others is not None:
        q, n_neurons = torch.full_like(p, torch.nan), len(p) + len(others)
        q[:, :n] = q_values(p[:, :n], others[:, :n])
    return dataclasses.replace(
        channels,
        support=values["support"],
        p_value=p,
        q_value=q,
        calibration=Calibration(n_neurons, len(null), statistic, added=n_neurons > len(p)),
    )
