"""Intervals, tests and corrections, clustered by neuron: what every figure of the book carries.

**Which interval.** The percentiles of a cluster bootstrap, but not always the 2.5th and the 97.5th.
With n clusters a bootstrap's variance is short by (n - 1)/n, and its percentiles stand where a
normal's would, not a t's: of eight clusters the plain 95% interval covers 89%. So the percentiles
are taken further out, by Hesterberg's factor, with Satterthwaite's degrees of freedom where several
samples add up. That widens an interval and never narrows it.

**Which draws.** Every sample, which is a stratum of one side, is drawn by a generator of its own,
spawned from the seed: draws that are shared would cancel, or count double, what is independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES, BATCH = 10_000, 1000
"""Resamples in all, and at a time."""

Seed = int | np.random.SeedSequence
"""A number, or one of the sequences that :func:`spawn` made of it."""


@dataclass(frozen=True)
class Estimate:
    """A figure with the interval it comes with."""

    value: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    n: int
    """Values that it is taken over."""
    n_clusters: int
    """Neurons (or documents, ...) that the values come from, which is what was resampled."""

    @staticmethod
    def of(stored: Mapping[str, float | None]) -> Estimate:
        """Out of a record, where what is not a number is None."""
        values: Any = {k: math.nan if x is None else x for k, x in stored.items()}
        return Estimate(**values)

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "n/a"
        ends = "n/a" if math.isnan(self.low) else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.value:.2f} [{ends}]"


def spawn(seed: Seed, n: int) -> list[np.random.SeedSequence]:
    """Seeds for n draws, independent of each other and of the seed's own: the same at each call."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return [np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i)) for i in range(n)]


def interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    statistic: str = "mean",
    seed: Seed = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """The mean or median of values with its 95% interval, resampling whole clusters.

    Args:
        values: (n,); NaN are left out.
        clusters: (n,) which neuron each value is of; None: each its own. Of one, the ends are NaN.
        statistic: "mean" or "median" over all values of the drawn clusters.
        seed: of the resampling.
        n_resamples: how many.

    Source: Davison and Hinkley (1997), section 3.8, for resampling clusters; Hesterberg (2015), The
    American Statistician 69:371, section 5.3, for the percentiles.
    """
    return _weighted_sum([_Sample.of(values, clusters, seed)], [1.0], statistic, n_resamples)


def difference(
    values: ArrayLike,
    others: ArrayLike,
    clusters: ArrayLike | None = None,
    other_clusters: ArrayLike | None = None,
    *,
    statistic: str = "mean",
    seed: Seed = 0,
) -> Estimate:
    """The mean or median of values less that of others that do not pair with them, as `interval`.

    The two sides are resampled independently; ``n`` and ``n_clusters`` are those of ``values``.
    Values that pair are better subtracted first.
    """
    first, second = spawn(seed, 2)
    samples = [_Sample.of(values, clusters, first), _Sample.of(others, other_clusters, second)]
    return _weighted_sum(samples, [1.0, -1.0], statistic, N_RESAMPLES)


def difference_within(
    values: ArrayLike,
    others: ArrayLike,
    strata: ArrayLike,
    other_strata: ArrayLike,
    clusters: ArrayLike,
    other_clusters: ArrayLike,
    *,
    seed: Seed = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """The mean of values less that of others of the same stratum (layer, ...), as `difference`.

    Where values and others are spread differently over strata, a difference of their means compares
    strata, too. Here each stratum is compared by itself; of n values and m others it weighs
    ``n m / (n + m)``, so that a stratum with a handful of others does not decide. One with fewer
    than two clusters on either side is left out.

    Source: Cochran (1954), Biometrics 10:417, for the weights.
    """
    x, label, stratum = (np.asarray(part) for part in (values, clusters, strata))
    y, other_label, other = (np.asarray(part) for part in (others, other_clusters, other_strata))
    samples: list[_Sample] = []
    weights: list[float] = []
    every = np.unique(stratum)
    for each, seeds in zip(every, spawn(seed, len(every)), strict=True):
        first, second = spawn(seeds, 2)
        inside = _Sample.of(x[stratum == each], label[stratum == each], first)
        outside = _Sample.of(y[other == each], other_label[other == each], second)
        if min(inside.n_clusters, outside.n_clusters) > 1:
            n, m = len(inside.values), len(outside.values)
            samples += [inside, outside]
            weights += [n * m / (n + m), -n * m / (n + m)]
    if not samples:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    shares = np.array(weights) / sum(weights[::2])
    return _weighted_sum(samples, shares.tolist(), "mean", n_resamples)


@dataclass(frozen=True)
class _Sample:
    """Values that are resampled together, by a generator of their own."""

    values: NDArray[np.float64]
    member: NDArray[np.int64]
    """The number of each value's cluster, from 0."""
    n_clusters: int
    seed: Seed

    @staticmethod
    def of(values: ArrayLike, clusters: ArrayLike | None, seed: Seed) -> _Sample:
        """The values that are not NaN."""
        x = np.asarray(values, dtype=float).ravel()
        labels = np.arange(len(x)) if clusters is None else np.asarray(clusters).ravel()
        if len(labels) != len(x):
            raise ValueError(f"{len(x)} values, {len(labels)} clusters: wanted as many")
        there = ~np.isnan(x)
        labels, member = np.unique(labels[there], return_inverse=True)
        return _Sample(x[there], member, len(labels), seed)

    def resampled(self, statistic: str, n_resamples: int) -> NDArray[np.float64]:
        """The statistic's bootstrap distribution; NaN where there are fewer than two clusters."""
        x, member, n = self.values, self.member, self.n_clusters
        if n < 2:
            return np.full(n_resamples, math.nan)
        random = np.random.default_rng(self.seed)
        sizes = np.diff([*range(0, n_resamples, BATCH), n_resamples])
        batches = (random.integers(0, n, (size, n)) for size in sizes)
        if statistic == "mean":
            total, count = np.bincount(member, x), np.bincount(member)
            return np.concatenate([total[drawn].sum(1) / count[drawn].sum(1) for drawn in batches])
        return np.concatenate([_medians(x, member, drawn) for drawn in batches])


def _medians(
    x: NDArray[np.float64], member: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The median of all values of each row's clusters, a cluster as often as it was drawn.

    Values are sorted once for all rows; a row only counts how often each is there.
    """
    order = np.argsort(x)
    times = np.stack([np.bincount(row, minlength=member.max() + 1) for row in drawn])
    reached = times[:, member[order]].cumsum(1)
    total = reached[:, -1:]
    middle = [(reached <= rank).sum(1) for rank in ((total - 1) // 2, total // 2)]
    return x[order[middle]].mean(0)


def _weighted_sum(
    samples: Sequence[_Sample], weights: Sequence[float], statistic: str, n_resamples: int
) -> Estimate:
    """The sum of the samples' statistics; n and n_clusters count samples of positive weight.

    The interval ends where ``Phi(-+ t sqrt(V / B))`` of the draws are below: B is their variance, V
    the same with each sample's part times n/(n - 1), and t the 97.5th percentile of Student's
    distribution with V's degrees of freedom. Of one sample: ``Phi(-+ t_{n-1} sqrt(n / (n - 1)))``.

    Source: Hesterberg (2015) for one sample; Satterthwaite (1946) for the degrees of freedom.
    """
    from scipy.stats import norm, t

    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic={statistic!r}: wanted mean or median")
    value, draws, n, n_clusters = 0.0, [], 0, 0
    for sample, weight in zip(samples, weights, strict=True):
        x = sample.values
        value += weight * float(getattr(np, statistic)(x)) if len(x) else math.nan
        draws.append(weight * sample.resampled(statistic, n_resamples))
        if weight > 0:
            n, n_clusters = n + len(x), n_clusters + sample.n_clusters
    short = np.array([drawn.var() for drawn in draws])
    count = np.array([sample.n_clusters for sample in samples])
    end = float(norm.ppf(0.975))
    if short.sum() > 0 and count.min() > 1:  # else one value again and again, or none to resample
        variance = short * count / (count - 1)
        freedom = variance.sum() ** 2 / (variance**2 / (count - 1)).sum()
        end = float(t.ppf(0.975, freedom) * (variance.sum() / short.sum()) ** 0.5)
    low, high = np.quantile(np.sum(draws, axis=0), norm.cdf([-end, end]))
    return Estimate(value, float(low), float(high), n, n_clusters)


def sign_flip(
    differences: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> float:
    """p-value of a mean difference of 0, flipping the signs of whole clusters; two-sided.

    Args:
        differences: (n,) paired differences; NaN are left out.
        clusters: (n,) which neuron each is of.
        seed: of the resampling.
        n_resamples: how many; exact where all flips are fewer.
    """
    from scipy.stats import permutation_test

    sample = _Sample.of(differences, clusters, seed)
    if sample.n_clusters < 2:
        return 1.0 if len(sample.values) else math.nan  # one neuron's sign shows nothing
    test = permutation_test(
        (np.bincount(sample.member, sample.values),),
        lambda s, axis=-1: s.sum(axis),
        permutation_type="samples",
        n_resamples=n_resamples,
        batch=BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values: reject where they are below the level for all tests together.

    Source: Holm (1979). scipy has Benjamini-Hochberg only.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(stepped, 1)[np.argsort(order)]
