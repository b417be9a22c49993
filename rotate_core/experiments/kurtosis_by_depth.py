"""What a whole model's kurtosis looks like over depth, with intervals (chapter 5).

A layer has many neurons, so its bootstrap is drawn from the bootstrap's own distribution where that
is known, instead of 10,000 times over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
        table: from :func:`rotate_core.experiments.kurtosis.whole_model`.
        seed: of the bootstrap.

    Returns:
        A row each: side, layer, kind, null, median, low and high (95% interval), n.
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


def shares_above(table: pd.DataFrame, *, n_points: int = 200) -> pd.DataFrame:
    """Share of the vectors above each of some kurtoses, over all layers, by side and kind.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis.whole_model`.
        n_points: kurtoses, closer together near 0.

    Returns:
        A row each: side, kind, null, kurtosis, share, low and high (95%, Wilson).
    """
    import pandas as pd
    from scipy.stats import binomtest

    points = np.geomspace(1, 2 + table["kurtosis"].max(), n_points) - 1.5
    parts = []
    for key, part in table.groupby(["side", "kind", "null"], sort=False):
        n = len(part)
        above = (n * _share_above(np.sort(part["kurtosis"].to_numpy()), points)).round().astype(int)
        bands = [binomtest(k, n).proportion_ci(0.95, method="wilson") for k in above.tolist()]
        values = {
            "share": above / n,
            "low": [b.low for b in bands],
            "high": [b.high for b in bands],
        }
        labels = dict(zip(("side", "kind", "null"), key, strict=True))
        parts.append(pd.DataFrame({"kurtosis": points} | values).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def share_above_null(table: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Share of the neurons of each layer, kind and side above a quantile of matched vectors.

    The quantile is the k-th smallest of the n matched vectors, k = ceil(level n). One more draw
    from their law falls above it with probability (n + 1 - k) / (n + 1), whatever the law: that is
    what chance gives, and more than ``1 - level``. The interval is that of 10,000 bootstraps of
    both: neurons, and the matched vectors that give the quantile.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis.whole_model`.
        level: of the quantile, between 0 and 1.
        seed: of the bootstrap.

    Returns:
        A row each: side, layer, kind, share, low, high, chance, n, n_null.

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
        share = _share_above(values, null[k - 1])
        limits = resampled_quantile(null, level, random)
        # How many of n resampled neurons are above a limit: binomial in the share that is.
        drawn = random.binomial(n, _share_above(values, limits)) / n
        chance = (n_null + 1 - k) / (n_null + 1)
        rows.append((*key, float(share), *np.quantile(drawn, INTERVAL), chance, n, n_null))
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
        level: of the quantile: the smallest value with this share at or below it.
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


def _share_above(ordered: NDArray[np.float64], limits: Any) -> Any:
    return 1 - np.searchsorted(ordered, limits, side="right") / len(ordered)


def depth_table(
    values: pd.DataFrame,
    column: str,
    n_layers: int,
    *,
    cuts: Sequence[float] = (1 / 4, 1 / 3, 1 / 2),
    seed: int = 0,
) -> pd.DataFrame:
    """Mean over the later layers less the mean over the earlier ones, for some cuts between them.

    The interval resamples layers: they are what the claim is about, and kinds go with their layer.

    Args:
        values: one row per layer and kind (and side), with columns layer, side and those named.
        column: the figure.
        n_layers: of the model.
        cuts: share of the layers that counts as early.
        seed: of the bootstrap.

    Returns:
        One row per side and cut: side, cut, early, late and late less early, each an `Estimate`.
    """
    import pandas as pd

    rows = []
    for side, part in values.groupby("side", sort=False):
        for cut in cuts:
            is_late = part.layer >= n_layers * cut
            early, late = part[~is_late], part[is_late]
            one, other, both = spawn(seed, 3)
            ends = [interval(x[column], x.layer, seed=s) for x, s in ((early, one), (late, other))]
            less = difference(late[column], early[column], late.layer, early.layer, seed=both)
            rows.append((side, cut, *ends, less))
    return pd.DataFrame(rows, columns=["side", "cut", "early", "late", "late less early"])
