"""Neurons beside their matched vectors: the tables and outcomes of the causal chapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from rotate_core.channels import Channels, take
from rotate_core.verdicts.intervals import Seed, difference_within, interval, spawn
from rotate_core.verdicts.rules import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas

NEURONS, MATCHED, ROTATIONS = "neurons", "matched vectors", "matched rotations"
"""What a row of a table is of, in its column ``what``; and columns of :func:`estimates`."""


def beside_matched(
    atlas: Atlas,
    layers: Sequence[int],
    kinds: Sequence[str],
    measure: Callable[[Channels, Sequence[int]], tuple[pd.DataFrame, ...]],
) -> tuple[pd.DataFrame, ...]:
    """Tables of neurons, and of as many matched vectors, each in the place of one of the neurons.

    Args:
        atlas: where the channels of both are; the first matched vectors take the place of the
            first neurons.
        layers: in it.
        kinds: of each layer.
        measure: of some channels and the numbers of the neurons in whose place they stand, which
            are the channels' own where they are neurons'.

    Returns:
        Each table of ``measure``, one below the other, with columns layer, kind, what, and cluster
        (the neuron, or the matched vector: what a bootstrap resamples).
    """
    import pandas as pd

    measured = []
    for layer, kind in product(layers, kinds):
        channels = atlas.channels(layer=layer, kind=kind)
        null = atlas.channels(layer=layer, kind=kind, null=True)
        null = take(null, range(min(channels.n_neurons, null.n_neurons)))
        for what, part in ((NEURONS, channels), (MATCHED, null)):
            labels = {"layer": layer, "kind": kind, "what": what}
            tables = [
                table.assign(**labels, cluster=f"{layer}/" + table["neuron"].astype(str))
                for table in measure(part, channels.indices[: part.n_neurons])
            ]
            measured.append(tables)
    return tuple(
        pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
        for tables in zip(*measured, strict=True)
    )


def estimates(
    table: pd.DataFrame, column: str, by: list[str], *, rotation: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """One row per group: neurons, matched vectors and their difference, with 95% intervals.

    Args:
        table: as :func:`beside_matched` makes it; rows without a value are left out.
        column: the figure.
        by: columns that say which group, in the table's order.
        rotation: the column of the same figure for matched rotations; its mean, and what the
            neurons have more than their own rotations, are added.
        seed: of the bootstraps; each estimate has draws of its own.

    Returns:
        Columns of ``by``, n and n matched (how many values), and an `Estimate` in each other cell.
    """
    import pandas as pd

    rows = []
    groups = list(table.groupby(by, sort=False))
    for (key, part), group_seed in zip(groups, spawn(seed, len(groups)), strict=True):
        row = dict(zip(by, key, strict=True)) | _compared(part, column, group_seed)
        if rotation is not None:
            real = part[(part.what == NEURONS) & part[column].notna()]
            more, seeds = real[column] - real[rotation], spawn(group_seed, 5)
            row[ROTATIONS] = interval(real[rotation], real.cluster, seed=seeds[3])
            row["less rotations"] = interval(more, real.cluster, seed=seeds[4])
        rows.append(row)
    names = [*by, "n", "n matched", NEURONS, MATCHED, "difference"]
    names += [] if rotation is None else [ROTATIONS, "less rotations"]
    return pd.DataFrame(rows, columns=names)


def _compared(table: pd.DataFrame, column: str, seed: Seed) -> dict[str, Any]:
    """Counts, means, and the difference within layers, over which values may be spread unevenly."""
    there = table[table[column].notna()]
    real, null = (there[there.what == what] for what in (NEURONS, MATCHED))
    x, y, seeds = real[column], null[column], spawn(seed, 3)
    return {
        "n": len(real),
        "n matched": len(null),
        NEURONS: interval(x, real.cluster, seed=seeds[0]),
        MATCHED: interval(y, null.cluster, seed=seeds[1]),
        "difference": difference_within(
            x, y, real.layer, null.layer, real.cluster, null.cluster, seed=seeds[2]
        ),
    }


def by_certainty(
    table: pd.DataFrame, column: str, q: pd.DataFrame, *, level: float, seed: int = 0
) -> pd.DataFrame:
    """First channels beyond the null, and the other first ones, each beside matched vectors'.

    A matched vector counts beside a group only where the group has neurons of its layer and kind.

    Args:
        table: one row per channel, as :func:`beside_matched` makes it.
        column: the figure.
        q: layer, kind, neuron, channel and q_value of each channel, as :meth:`Atlas.table` has it.
        level: q-value below which a channel is beyond the null.
        seed: of the bootstraps.

    Returns:
        As :func:`estimates`, by "channels"; a group without a channel is left out.
    """
    import pandas as pd

    first = table[(table["channel"] == 0) & table[column].notna()]
    group = ["layer", "kind"]
    keys = [*group, "neuron", "channel"]
    real = first[first.what == NEURONS].merge(q[[*keys, "q_value"]], on=keys)
    null = first[first.what == MATCHED]
    below, others = real[real.q_value < level], real[real.q_value >= level]
    parts = []
    for name, part in ((f"q < {level:g}", below), ("others", others)):
        beside = null.merge(part[group].drop_duplicates(), on=group)
        parts.append(pd.concat([part, beside]).assign(channels=name))
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
    values = (ours, null, ours - null)
    figure, chance, over_null = (interval(x, clusters, seed=seed) for x in values)
    return Outcome(figure, chance, over_null, null_is, model)


def outcome(
    table: pd.DataFrame, column: str, *, model: str, rotation: str | None = None, seed: int = 0
) -> Outcome:
    """Neurons against matched vectors, for the scoreboard.

    Args:
        table: as :func:`beside_matched` makes it.
        column: the figure.
        model: which model, and how much of it.
        rotation: the column of the same figure for matched rotations, which are the null then.
        seed: of the bootstraps.
    """
    if rotation is not None:
        real = table[table.what == NEURONS]
        columns = real[column], real[rotation], real.cluster
        return paired_outcome(*columns, null_is=ROTATIONS, model=model, seed=seed)
    row = _compared(table, column, seed)
    return Outcome(row[NEURONS], row[MATCHED], row["difference"], MATCHED, model)
