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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES = 10_000

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

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "n/a"
        ends = "n/a" if math.isnan(self.low) else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.value:.2f} [{ends}]"

    def asdict(self) -> dict[str, float]:
        """For results/NN_claim.json."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "n_clusters": self.n_clusters,
        }


def spawn(seed: Seed, n: int) -> list[np.random.SeedSequence]:
    """Seeds for n draws that are independent of each other and of the seed's own.

    Args:
        seed: a number always gives the same ones.
        n: how many.
    """
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    children = [(*root.spawn_key, i) for i in range(n)]  # as root.spawn, which counts its calls
    return [np.random.SeedSequence(root.entropy, spawn_key=key) for key in children]


def interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    statistic: str = "mean",
    seed: Seed = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """The mean or median of values with its 95% interval, resampling whole clusters.

    scipy's bootstrap resamples observations; here it resamples cluster numbers, and the statistic
    looks their values up.

    Args:
        values: (n,); NaN are left out.
        clusters: (n,) which neuron each value is of; None: each its own.
        statistic: "mean" or "median" over all values of the drawn clusters.
        seed: of the resampling.
        n_resamples: how many.

    Returns:
        With NaN ends where there are fewer than two clusters.

    Source: Davison and Hinkley (1997), section 3.8, for resampling clusters; Hesterberg (2015), The
    American Statistician 69:371, section 5.3, for the percentiles.
    """
    x, member = _clustered(values, clusters)
    drawn = _resample(x, member, statistic, seed, n_resamples)
    return _estimate(_value(x, statistic), [(drawn, _count(member))], len(x), _count(member))


def difference(
    values: ArrayLike,
    others: ArrayLike,
    clusters: ArrayLike | None = None,
    other_clusters: ArrayLike | None = None,
    *,
    statistic: str = "mean",
    seed: Seed = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """The mean or median of values less that of others that do not pair with them, as `interval`.

    The two sides are resampled independently. Values that pair are better subtracted first.
    ``n`` and ``n_clusters`` are those of ``values``.
    """
    x, member = _clustered(values, clusters)
    y, other_member = _clustered(others, other_clusters)
    one, other = spawn(seed, 2)
    first = _resample(x, member, statistic, one, n_resamples)
    second = _resample(y, other_member, statistic, other, n_resamples)
    value = _value(x, statistic) - _value(y, statistic)
    samples = [(first, _count(member)), (-second, _count(other_member))]
    return _estimate(value, samples, len(x), _count(member))


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
    than two clusters on either side is left out. Clusters are drawn within strata, and those of
    each stratum and side by a generator of their own.

    Source: Cochran (1954), Biometrics 10:417, for the weights.
    """
    x, label, stratum = (np.asarray(part) for part in (values, clusters, strata))
    y, other_label, other = (np.asarray(part) for part in (others, other_clusters, other_strata))
    samples: list[tuple[NDArray[np.float64], int]] = []
    value = weight = 0.0
    n_values = n_clusters = 0
    every = np.unique(stratum)
    for each, seeds in zip(every, spawn(seed, len(every)), strict=True):
        x_member = _clustered(x[stratum == each], label[stratum == each])
        y_member = _clustered(y[other == each], other_label[other == each])
        if min(_count(x_member[1]), _count(y_member[1])) < 2:
            continue
        n, m = len(x_member[0]), len(y_member[0])
        share = n * m / (n + m)
        value += share * (x_member[0].mean() - y_member[0].mean())
        for sign, side, child in zip((1, -1), (x_member, y_member), spawn(seeds, 2), strict=True):
            drawn = _resample(*side, "mean", child, n_resamples)
            samples.append((sign * share * drawn, _count(side[1])))
        weight += share
        n_values += n
        n_clusters += _count(x_member[1])
    if not weight:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    parts = [(drawn / weight, count) for drawn, count in samples]
    return _estimate(value / weight, parts, n_values, n_clusters)


def _clustered(
    values: ArrayLike, clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The values that are there, and the number of the cluster of each, from 0."""
    x = np.asarray(values, dtype=float).ravel()
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters).ravel()
    if len(labels) != len(x):
        raise ValueError(f"{len(x)} values, {len(labels)} clusters: wanted as many")
    there = ~np.isnan(x)
    return x[there], np.unique(labels[there], return_inverse=True)[1]


def _count(member: NDArray[np.int64]) -> int:
    return int(member.max()) + 1 if len(member) else 0


def _value(x: NDArray[np.float64], statistic: str) -> float:
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic={statistic!r}: wanted mean or median")
    return float(getattr(np, statistic)(x)) if len(x) else float("nan")


def _resample(
    x: NDArray[np.float64], member: NDArray[np.int64], statistic: str, seed: Seed, n_resamples: int
) -> NDArray[np.float64]:
    """The bootstrap distribution of the statistic; NaN where there are fewer than two clusters."""
    from scipy.stats import bootstrap

    n_clusters = _count(member)
    if n_clusters < 2:
        return np.full(n_resamples, np.nan)
    total, count = np.bincount(member, x), np.bincount(member).astype(float)
    groups = [x[member == i] for i in range(n_clusters)] if statistic == "median" else []

    def of(drawn: NDArray[Any], axis: int = -1) -> Any:
        if statistic == "mean":
            return total[drawn].sum(axis) / count[drawn].sum(axis)
        rows = np.moveaxis(drawn, axis, -1)
        flat = rows.reshape(-1, rows.shape[-1])
        medians = [np.median(np.concatenate([groups[i] for i in row])) for row in flat]
        return np.reshape(medians, rows.shape[:-1])

    result = bootstrap(
        (np.arange(n_clusters),),
        of,
        n_resamples=n_resamples,
        batch=1000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.bootstrap_distribution)


def _estimate(
    value: float, samples: list[tuple[NDArray[np.float64], int]], n: int, n_clusters: int
) -> Estimate:
    """A sum of independent samples, each with its bootstrap distribution and its clusters."""
    drawn = np.sum([part for part, _ in samples], axis=0)
    low, high = np.quantile(drawn, _percentiles(samples))
    return Estimate(value, float(low), float(high), n, n_clusters)


def _percentiles(samples: list[tuple[NDArray[np.float64], int]]) -> tuple[float, float]:
    """Where a 95% interval ends in the bootstrap distribution, from 0 to 1.

    ``Phi(-+ t sqrt(V / B))``: B is the variance of the draws, V the same with each sample's part
    times n/(n - 1), and t the 97.5th percentile of Student's distribution with V's degrees of
    freedom. Of one sample: ``Phi(-+ t_{n-1} sqrt(n / (n - 1)))``.

    Source: Hesterberg (2015) for one sample; Satterthwaite (1946) for the degrees of freedom.
    """
    from scipy.stats import norm, t

    short = np.array([drawn.var() for drawn, _ in samples])
    count = np.array([n for _, n in samples], dtype=float)
    if not short.sum() > 0 or count.min() < 2:  # one value again and again, or nothing to resample
        return 0.025, 0.975
    variance = short * count / (count - 1)
    freedom = variance.sum() ** 2 / (variance**2 / (count - 1)).sum()
    end = float(t.ppf(0.975, freedom) * (variance.sum() / short.sum()) ** 0.5)
    return float(norm.cdf(-end)), float(norm.cdf(end))


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

    x, member = _clustered(differences, clusters)
    if _count(member) < 2:
        return 1.0 if len(x) else float("nan")  # one neuron's sign shows nothing
    sums = np.bincount(member, x)
    result = permutation_test(
        (sums,),
        lambda s, axis=-1: s.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values: reject where they are below the level for all tests together.

    Source: Holm (1979). scipy has Benjamini-Hochberg only.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
