"""From a null of a hundred vectors to small p-values: four ways, held to what they promise (ours).

The package's own way (:func:`rotate_core.null.calibration.p_values`) was chosen by the rule of
:func:`choose`: of the ways that are valid on fresh matched vectors, the one that finds the most
planted channels. The rule was fixed after a first look at the validity of one layer and kind
(29 out), and before any other layer and any power was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rotate_core.null.calibration import EXCEEDANCES, SIGNIFICANT, p_values, q_values

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas

Values = NDArray[np.float64]
EXPONENTIAL, RANK, PARETO = "exponential tail", "rank", "generalised Pareto tail"
POOLED, DECOYS = "pooled null", "target-decoy"
LEVELS = (0.1, 0.05, 0.01, 0.001, 0.0001)
"""p-values at which validity is looked at."""
SLACK = 1.25
"""A way is valid whose share of fresh vectors at or below each level is at most so many times the
level, and whose mean share of false discoveries is at most the level of the q-value."""
ALIKE = 0.05
"""Nulls are pooled where a two-sample Kolmogorov-Smirnov test has a p-value above this."""


def exponential(
    observed: Values, null: Values, other_nulls: Sequence[Values] = (), *, extrapolate: bool = True
) -> Values:
    """Ranks, and beyond the null's largest value an exponential tail: what the package does."""
    columns = (torch.tensor(x, dtype=torch.float64).unsqueeze(1) for x in (observed, null))
    return p_values(*columns, extrapolate=extrapolate)[:, 0].numpy()


def rank(observed: Values, null: Values, other_nulls: Sequence[Values] = ()) -> Values:
    """``(r + 1) / (n + 1)``: no smaller than ``1 / (n + 1)``."""
    return exponential(observed, null, extrapolate=False)


def pareto(observed: Values, null: Values, other_nulls: Sequence[Values] = ()) -> Values:
    """Ranks, and above the null's 80th percentile a generalised Pareto tail, by maximum likelihood.

    Source: Knijnenburg et al. (2009), Bioinformatics 25:i161.
    """
    from scipy.stats import genpareto

    ascending, k = np.sort(null), int(EXCEEDANCES * len(null))
    u = ascending[-k - 1]
    shape, _, scale = genpareto.fit(ascending[-k:] - u, floc=0)
    tail = k / len(null) * genpareto.sf(observed - u, shape, 0, scale)
    return np.where(observed > u, tail, rank(observed, null))


def pooled(observed: Values, null: Values, other_nulls: Sequence[Values] = ()) -> Values:
    """Ranks in the null and in all others that a test cannot tell from it (:data:`ALIKE`)."""
    from scipy.stats import ks_2samp

    alike = [x for x in other_nulls if ks_2samp(null, x).pvalue > ALIKE]
    return rank(observed, np.concatenate([null, *alike]))


P_VALUES: dict[str, Callable[[Values, Values, Sequence[Values]], Values]] = {
    EXPONENTIAL: exponential,
    RANK: rank,
    POOLED: pooled,
    PARETO: pareto,
}
"""Each way to a p-value, from (observed, null, other nulls)."""
METHODS = (*P_VALUES, DECOYS)
"""All ways, target-decoy counting among them, which has q-values only; in the order of figures."""


def decoy_q_values(observed: Values, null: Values) -> Values:
    """Target-decoy counting: matched vectors per neuron beyond a value, over neurons beyond it.

    ``(1 + #null >= x) / n_null * n / #observed >= x``, made monotone. The one that is added keeps
    it valid, and gives it the floor that ranks have.

    Source: Elias and Gygi (2007), Nature Methods 4:207; Barber and Candes (2015) for the added one.
    """
    order = np.argsort(-observed)
    ascending, decoys = np.sort(observed), np.sort(null)
    beyond = len(observed) - np.searchsorted(ascending, observed[order])
    false = 1 + len(null) - np.searchsorted(decoys, observed[order])
    share = np.minimum(1, false / len(null) * len(observed) / beyond)
    q = np.empty_like(share)
    q[order] = np.minimum.accumulate(share[::-1])[::-1]
    return q


def validity(
    fresh: Values,
    other_nulls: Sequence[Values] = (),
    *,
    n_null: int = 100,
    n_repeats: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of vectors that mean nothing with a p-value at or below each of :data:`LEVELS`.

    Args:
        fresh: statistics of matched vectors of one layer and kind, far more than ``n_null``.
        other_nulls: nulls of other layers and kinds, for :func:`pooled`.
        n_null: drawn as the null in each repeat; all that are left are tested against them.
        n_repeats: draws.
        seed: of the draws.

    Returns:
        One row per way and level: method, level, share (mean over repeats), ratio (share over
        level: at most 1 where p-values are valid), n (vectors tested in each repeat).

    Raises:
        ValueError: fewer fresh vectors than twice the null.
    """
    import pandas as pd

    if len(fresh) < 2 * n_null:
        raise ValueError(
            f"{len(fresh)} fresh vectors: wanted at least {2 * n_null}, twice the null"
        )
    random = np.random.default_rng(seed)
    shares = np.zeros((len(P_VALUES), len(LEVELS)))
    for _ in range(n_repeats):
        drawn = random.permutation(fresh)
        for row, p_values_of in zip(shares, P_VALUES.values(), strict=True):
            p = p_values_of(drawn[n_null:], drawn[:n_null], other_nulls)
            row += [(p <= level).mean() for level in LEVELS]
    index = pd.MultiIndex.from_product([P_VALUES, LEVELS], names=["method", "level"])
    table = pd.DataFrame({"share": shares.ravel() / n_repeats}, index).reset_index()
    return table.assign(ratio=table.share / table.level, n=len(fresh) - n_null)


def discoveries(
    fresh: Values,
    planted: Mapping[float, Values],
    other_nulls: Sequence[Values] = (),
    *,
    n_neurons: int = 25,
    n_null: int = 100,
    n_repeats: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Channels certified among neurons of which none, one or five have a planted channel.

    Args:
        fresh: as in :func:`validity`: the null and the neurons without a channel come from it.
        planted: statistics of planted channels, by how strongly they were planted.
        other_nulls: as in :func:`validity`.
        n_neurons: that q-values are over.
        n_null: matched vectors.
        n_repeats: draws, each with a generator of its own; whatever is planted, a draw's null is
            the same.
        seed: of the draws.

    Returns:
        One row per number of planted channels, strength (0 where none is planted) and way: method,
        planted, strength, power (mean share of the planted channels with q < 0.1), false
        (mean share of the certified ones that were not planted, 0 where nothing is), low and high
        (95% of its mean, by the normal approximation).

    Raises:
        ValueError: fewer fresh vectors than the null and the neurons, or too few planted channels.
    """
    import pandas as pd

    if len(fresh) < n_null + n_neurons:
        raise ValueError(
            f"{len(fresh)} fresh vectors: wanted at least {n_null + n_neurons}, the null and "
            f"{n_neurons} neurons"
        )
    settings = [(0, 0.0), *((n, strength) for n in (1, 5) for strength in planted)]
    n_planted = np.array([n for n, _ in settings])
    is_planted = np.arange(n_neurons)[:, None] < n_planted
    power, false = np.full((2, n_repeats, len(METHODS), len(settings)), np.nan)
    for repeat, own_seed in enumerate(np.random.SeedSequence(seed).spawn(n_repeats)):
        random = np.random.default_rng(own_seed)
        null, empty = np.split(random.permutation(fresh)[: n_null + n_neurons], [n_null])
        observed = np.tile(empty[:, None], len(settings))
        for column, (n, strength) in zip(observed.T[1:], settings[1:], strict=True):
            column[:n] = random.choice(planted[strength], n, replace=False)
        for method, name in enumerate(METHODS):
            certified = _q(name, observed, null, other_nulls) < SIGNIFICANT
            found = (certified & is_planted).sum(0)
            power[repeat, method, 1:] = found[1:] / n_planted[1:]
            false[repeat, method] = (certified.sum(0) - found) / certified.sum(0).clip(1)
    mean, half = false.mean(0), 1.96 * false.std(0) / np.sqrt(n_repeats)
    values = {"power": power.mean(0), "false": mean, "low": mean - half, "high": mean + half}
    parts = [
        pd.DataFrame({"method": METHODS, "planted": n, "strength": strength}).assign(
            **{name: by_setting[:, at] for name, by_setting in values.items()}
        )
        for at, (n, strength) in enumerate(settings)
    ]
    return pd.concat(parts, ignore_index=True)


def choose(valid: pd.DataFrame, discovered: pd.DataFrame) -> pd.DataFrame:
    """The rule: of the valid ways, the one that finds the most planted channels.

    Args:
        valid: of :func:`validity`, of one group or of several.
        discovered: of :func:`discoveries`.

    Returns:
        One row per way: worst (the largest ratio of ``valid``), false (the largest share of false
        discoveries), valid, power (mean over what was planted), chosen. Target-decoy counting has
        no p-values; its validity is that of its discoveries alone.
    """
    import pandas as pd

    table = pd.DataFrame(index=pd.Index(METHODS, name="method"))
    table["worst"] = valid.groupby("method").ratio.max()
    table["false"] = discovered.groupby("method")["false"].max()
    honest = discovered.groupby("method").low.max() <= SIGNIFICANT
    table["valid"] = honest & (table.worst.fillna(0) <= SLACK)
    table["power"] = discovered[discovered.planted > 0].groupby("method").power.mean()
    table["chosen"] = table.index == table[table.valid].power.idxmax()
    return table


def _q(name: str, observed: Values, null: Values, other_nulls: Sequence[Values] = ()) -> Values:
    """q-values of each column by itself; (n_neurons, n_columns)."""
    if name == DECOYS:
        return np.stack([decoy_q_values(column, null) for column in observed.T], 1)
    p = P_VALUES[name](observed.ravel(), null, other_nulls).reshape(observed.shape)
    return q_values(torch.tensor(p)).numpy()


def certified_by_rank(atlas: Atlas) -> pd.Series:
    """Share of an atlas's first channels that ranks alone would certify, by layer and kind."""
    import pandas as pd

    statistic, group = atlas.manifest.statistic, ["layer", "kind"]
    tables = (atlas.table([*group, "channel", statistic], null=null) for null in (False, True))
    real, null = (table[table.channel == 0].groupby(group)[statistic] for table in tables)
    q = {
        key: _q(RANK, part.to_numpy()[:, None], null.get_group(key).to_numpy())
        for key, part in real
    }
    shares = {key: (values < SIGNIFICANT).mean() for key, values in q.items()}
    return pd.Series(shares, name="ranks_first")
