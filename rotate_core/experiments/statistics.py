"""Intervals, tests and corrections, clustered by neuron: what every figure of the book carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_RESAMPLES = 10_000


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
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def asdict(self) -> dict[str, float]:
        """For results/NN_claim.json."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "n_clusters": self.n_clusters,
        }


def interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    statistic: str = "mean",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """The mean or median of values with its 95% percentile interval, resampling whole clusters.

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

    Source: Davison and Hinkley (1997), section 3.8, for resampling clusters.
    """
    from scipy.stats import bootstrap

    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic={statistic!r}: wanted mean or median")
    x = np.asarray(values, dtype=float).ravel()
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters).ravel()
    if len(labels) != len(x):
        raise ValueError(f"{len(x)} values, {len(labels)} clusters: wanted as many")
    x, labels = x[~np.isnan(x)], labels[~np.isnan(x)]
    _, member = np.unique(labels, return_inverse=True)
    n_clusters = int(member.max()) + 1 if len(member) else 0
    if not n_clusters:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    value = float(getattr(np, statistic)(x))
    if n_clusters < 2:
        return Estimate(value, float("nan"), float("nan"), len(x), n_clusters)
    of: Callable[..., Any]
    if statistic == "mean":
        total, count = np.bincount(member, x), np.bincount(member).astype(float)

        def of(drawn: NDArray[Any], axis: int = -1) -> Any:
            return total[drawn].sum(axis) / count[drawn].sum(axis)
    else:
        groups = [x[member == i] for i in range(n_clusters)]

        def of(drawn: NDArray[Any], axis: int = -1) -> Any:
            rows = np.moveaxis(drawn, axis, -1)
            flat = rows.reshape(-1, rows.shape[-1]).astype(int)
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
    ends = result.confidence_interval
    return Estimate(value, float(ends.low), float(ends.high), len(x), n_clusters)


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

    x = np.asarray(differences, dtype=float).ravel()
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters).ravel()
    x, labels = x[~np.isnan(x)], labels[~np.isnan(x)]
    if len(np.unique(labels)) < 2:
        return 1.0 if len(x) else float("nan")  # one neuron's sign shows nothing
    _, member = np.unique(labels, return_inverse=True)
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
