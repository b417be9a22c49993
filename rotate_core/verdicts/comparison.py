"""Neurons beside their matched vectors: the tables and outcomes of the causal chapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rotate_core.channels import take
from rotate_core.verdicts.intervals import (
    Estimate,
    Seed,
    difference,
    difference_within,
    interval,
    spawn,
)
from rotate_core.verdicts.rules import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.channels import Channels

REAL, MATCHED = "neurons", "matched vectors"
"""What a row of a table is of, in its column ``what``."""


def both(
    channels: Channels,
    null: Channels,
    measure: Callable[[Channels, list[int], str], tuple[pd.DataFrame, ...]],
) -> tuple[pd.DataFrame, ...]:
    """Measure neurons, then as many matched vectors, each in the place of one of the neurons.

    Args:
        channels: of some neurons of a layer.
        null: of matched vectors; the first take the place of the first neurons.
        measure: given channels, the rows of the neurons whose place they have, and what they are.

    Returns:
        The tables of ``measure``, one below the other, with columns layer, kind, what, and cluster
        (the neuron, or the matched vector: what a bootstrap resamples).
    """
    import pandas as pd

    n = min(channels.n_neurons, null.n_neurons)
    parts = []
    for what, some, count in (
        (REAL, channels, channels.n_neurons),
        (MATCHED, take(null, range(n)), n),
    ):
        place = {"layer": channels.layer, "kind": channels.kind, "what": what}
        tables = measure(some, list(range(count)), what)
        parts.append(
            [
                table.assign(**place, cluster=f"{channels.layer}/" + table["neuron"].astype(str))
                for table in tables
            ]
        )
    return tuple(
        pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
        for tables in zip(*parts, strict=True)
    )


def estimates(
    table: pd.DataFrame, column: str, by: list[str], *, rotation: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """One row per group: neurons, matched vectors and their difference, with 95% intervals.

    Args:
        table: with the columns what and cluster; rows without a value are left out.
        column: the figure.
        by: columns that say which group, in the table's order.
        rotation: the column of the same figure for matched rotations; its mean, and what the
            neurons have more than their own rotations, are added.
        seed: of the bootstraps; each estimate has draws of its own.

    Returns:
        Columns of ``by``, n and n matched (how many values), then an `Estimate` a cell.
    """
    import pandas as pd

    rows = []
    groups = list(table.groupby(by, sort=False))
    for (key, part), group_seed in zip(groups, spawn(seed, len(groups)), strict=True):
        seeds = spawn(group_seed, 5)
        there = part[part[column].notna()]
        real, null = (there[there.what == what] for what in (REAL, MATCHED))
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        row |= {"n": len(real), "n matched": len(null)}
        row["neurons"] = interval(real[column], real.cluster, seed=seeds[0])
        row["matched vectors"] = interval(null[column], null.cluster, seed=seeds[1])
        row["difference"] = _difference(real, null, column, seeds[2])
        if rotation is not None:
            row["rotations"] = interval(real[rotation], real.cluster, seed=seeds[3])
            more = real[column] - real[rotation]
            row["less rotations"] = interval(more, real.cluster, seed=seeds[4])
        rows.append(row)
    names = [*by, "n", "n matched", "neurons", "matched vectors", "difference"]
    names += [] if rotation is None else ["rotations", "less rotations"]
    return pd.DataFrame(rows, columns=names)


def by_certainty(
    table: pd.DataFrame, column: str, q: pd.DataFrame, *, level: float, seed: int = 0
) -> pd.DataFrame:
    """First channels beyond the null, and the other first ones, each beside matched vectors'.

    A matched vector counts beside a group only where the group has neurons of its layer and kind.

    Args:
        table: one row per channel, as :func:`both` makes them.
        column: the figure.
        q: layer, kind, neuron, channel and q_value of each channel, as :meth:`Atlas.table` has it.
        level: q-value below which a channel is beyond the null.
        seed: of the bootstraps.

    Returns:
        As :func:`estimates`, by "channels"; a group without a channel is left out.
    """
    import pandas as pd

    first = table[(table["channel"] == 0) & table[column].notna()]
    keys = ["layer", "kind", "neuron", "channel"]
    real = first[first.what == REAL].merge(q[[*keys, "q_value"]], on=keys)
    virtual = first[first.what == MATCHED]
    place = pd.MultiIndex.from_frame(virtual[["layer", "kind"]])
    parts = []
    for name, some in (
        (f"q < {level:g}", real[real.q_value < level]),
        ("others", real[real.q_value >= level]),
    ):
        beside = virtual[place.isin(pd.MultiIndex.from_frame(some[["layer", "kind"]]))]
        rows = pd.concat([some, beside]) if len(some) else some
        parts.append(rows.assign(channels=name))
    return estimates(pd.concat(parts), column, ["channels"], seed=seed)


def group_means(
    table: pd.DataFrame, by: list[str], columns: list[str], **options: Any
) -> pd.DataFrame:
    """The mean of some columns in each group with its 95% interval over clusters.

    Args:
        table: with the column cluster.
        by: columns that say which group, in the table's order.
        columns: the figures.
        options: of :func:`.interval`, such as its seed.

    Returns:
        One row per group, which is the index, and an `Estimate` per column.
    """
    import pandas as pd

    def means(part: pd.DataFrame) -> pd.Series:
        return pd.Series({name: interval(part[name], part.cluster, **options) for name in columns})

    return table.groupby(by, sort=False)[[*columns, "cluster"]].apply(means)


def paired_outcome(
    ours: pd.Series, null: pd.Series, clusters: Any = None, *, null_is: str, model: str, seed: int
) -> Outcome:
    """Figures against their null, row by row, for the scoreboard."""
    values = {"ours": ours, "null": null, "over_null": ours - null}
    estimates = {name: interval(x, clusters, seed=seed) for name, x in values.items()}
    return Outcome(**estimates, null_is=null_is, model=model)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of :func:`estimates` for results/NN_claim.json."""
    return [
        {k: v.asdict() if isinstance(v, Estimate) else v for k, v in row.items()}
        for row in table.to_dict("records")
    ]


def outcome(table: pd.DataFrame, column: str, *, model: str, seed: int = 0) -> Outcome:
    """Neurons against matched vectors, for the scoreboard."""
    real, null = (table[table.what == what] for what in (REAL, MATCHED))
    seeds = spawn(seed, 3)
    return Outcome(
        ours=interval(real[column], real.cluster, seed=seeds[0]),
        null=interval(null[column], null.cluster, seed=seeds[1]),
        over_null=_difference(real, null, column, seeds[2]),
        null_is=MATCHED,
        model=model,
    )


def _difference(real: pd.DataFrame, null: pd.DataFrame, column: str, seed: Seed) -> Estimate:
    """Within layers: what can be measured may be spread over them differently."""
    if "layer" not in real:
        return difference(real[column], null[column], real.cluster, null.cluster, seed=seed)
    return difference_within(
        real[column], null[column], real.layer, null.layer, real.cluster, null.cluster, seed=seed
    )
