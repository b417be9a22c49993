"""The kurtosis of a model's neurons over depth, with intervals (chapter 5).

A layer has many neurons, so its bootstrap is drawn from the bootstrap's own distribution where that
is known, instead of 10,000 times over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rotate_core.verdicts.intervals import N_RESAMPLES, difference, interval, spawn

if TYPE_CHECKING:
    import pandas as pd

INTERVAL = (0.025, 0.975)
"""Ends of the 95% interval."""


def medians(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Median kurtosis of each layer, kind and side, of neurons and of matched vectors.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis.kurtosis_table`.
        seed: of the bootstrap.

    Returns:
        One row per group: side, layer, kind, null, median, low and high (95% interval), n.
    """
    import pandas as pd

    rows = []
    groups = list(table.groupby(["side", "layer", "kind", "null"], sort=False))
    for (key, part), child in zip(groups, spawn(seed, len(groups)), strict=True):
        values = np.sort(part["kurtosis"].to_numpy())
        drawn = resampled_quantile(values, 0.5, np.random.default_rng(child))
        rows.append((*key, np.median(values), *np.quantile(drawn, INTERVAL), len(values)))
    columns = ["side", "layer", "kind", "null", "median", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def shares_above(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the vectors above each of 200 kurtoses, over all layers, by side and kind.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis.kurtosis_table`.

    Returns:
        One row per side, kind, null and kurtosis, with share, low and high (95%, Wilson).
    """
    import pandas as pd
    from scipy.stats import binomtest

    points = np.geomspace(1, 2 + table["kurtosis"].max(), 200) - 1.5  # closer together near 0
    parts = []
    for (side, kind, null), part in table.groupby(["side", "kind", "null"], sort=False):
        above = (part["kurtosis"].to_numpy() > points[:, None]).sum(1)
        bands = [binomtest(k, len(part)).proportion_ci(method="wilson") for k in above]
        rows = pd.DataFrame(bands).assign(side=side, kind=kind, null=null)
        parts.append(rows.assign(kurtosis=points, share=above / len(part)))
    return pd.concat(parts, ignore_index=True)


def share_above_null(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Share of the neurons of each layer, kind and side above a quantile of matched vectors.

    The quantile is the k-th smallest of the n matched vectors, k = ceil(level n). One more draw
    from their law falls above it with probability (n + 1 - k) / (n + 1), whatever the law: that is
    what chance gives, and more than ``1 - level``. The interval is that of 10,000 bootstraps of
    both: neurons, and the matched vectors that give the quantile.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis.kurtosis_table`.
        level: of the quantile, between 0 and 1.
        seed: of the bootstrap.

    Returns:
        One row per side, layer and kind, with share, low, high, chance, n and n_null.

    Raises:
        ValueError: a level that is not between 0 and 1.

    Source: David and Nagaraja (2003), Order Statistics, section 7.2, for chance.
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"level={level}: wanted a share between 0 and 1")
    rows = []
    groups = list(table.groupby(["side", "layer", "kind"], sort=False))
    for (key, part), child in zip(groups, spawn(seed, len(groups)), strict=True):
        values, null = (np.sort(part[part.null == x]["kurtosis"].to_numpy()) for x in (False, True))
        n, n_null, random = len(values), len(null), np.random.default_rng(child)
        k = _rank(level, n_null)
        share = (values > null[k - 1]).mean()
        limits = resampled_quantile(null, level, random)
        # How many of n resampled neurons are above a limit: binomial in the share that is.
        drawn = random.binomial(n, 1 - np.searchsorted(values, limits, side="right") / n) / n
        chance = (n_null + 1 - k) / (n_null + 1)
        rows.append((*key, share, *np.quantile(drawn, INTERVAL), chance, n, n_null))
    columns = ["side", "layer", "kind", "share", "low", "high", "chance", "n", "n_null"]
    return pd.DataFrame(rows, columns=columns)


def resampled_quantile(
    ordered: NDArray[np.float64],
    level: float,
    random: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> NDArray[np.float64]:
    """A quantile's bootstrap distribution, without drawing the samples.

    Of n draws with replacement, the k-th smallest is the value of rank floor(n B), where B is the
    k-th smallest of n uniform numbers: a Beta(k, n - k + 1).

    Args:
        ordered: (n,) values, ascending.
        level: share of the values at or below the quantile.
        random: of the resampling.
        n_resamples: how many.

    Source: Efron (1979), who gives the median's bootstrap distribution in this form.
    """
    n = len(ordered)
    k = _rank(level, n)
    return ordered[np.minimum(n - 1, (n * random.beta(k, n - k + 1, n_resamples)).astype(int))]


def _rank(level: float, n: int) -> int:
    """The k-th of n values in order: the smallest that has this share of them at or below it."""
    return max(1, math.ceil(level * n - 1e-9))  # 0.95 * 20 is 19, also where it rounds up


def depth_table(
    values: pd.DataFrame, column: str, *, cuts: Sequence[float], seed: int = 0
) -> pd.DataFrame:
    """Mean over the earlier and the later layers, and the latter less the former, for some cuts.

    The interval resamples layers: they are what the claim is about, and kinds go with their layer.

    Args:
        values: one row per layer, kind and side.
        column: whose mean.
        cuts: shares of the layers that count as early.
        seed: of the bootstrap.

    Returns:
        One row per side and cut, the index: early, late and late less early, each an `Estimate`.
    """
    import pandas as pd

    rows = []
    for side, part in values.set_index("layer").groupby("side", sort=False)[column]:
        for cut in cuts:
            is_late = part.index >= (part.index.max() + 1) * cut
            early, late = part[~is_late], part[is_late]
            seeds = spawn(seed, 3)
            means = [interval(x, x.index, seed=s) for x, s in ((early, seeds[0]), (late, seeds[1]))]
            less = difference(late, early, late.index, early.index, seed=seeds[2])
            rows.append((side, cut, *means, less))
    columns = ["side", "cut", "early", "late", "late less early"]
    return pd.DataFrame(rows, columns=columns).set_index(["side", "cut"])
