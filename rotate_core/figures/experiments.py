"""Figures of the experiments: tables to Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import seaborn as sns

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate

VERDICT_COLOURS = {
    "reproduced": COLOURS["in"],
    "not reproduced": COLOURS["householder"],
    "inconclusive": COLOURS["out"],
    "proxy": COLOURS["geodesic"],
    "not run": COLOURS["null"],
}
"""A colour for each verdict of the scoreboard."""


def strips(
    table: pd.DataFrame,
    ax: Axes,
    *,
    value: str,
    group: str,
    colours: Mapping[str, str],
    label: str,
    medians: Mapping[str, Estimate] | None = None,
) -> Axes:
    """A row of points a group with its median: every value is seen, none is summed away.

    Args:
        table: one row per value.
        ax: where to.
        value: the column to draw.
        group: the column that says which row.
        colours: of each group, in order from the top.
        label: of the value's axis.
        medians: of each group, to draw their intervals too.
    """
    sns.stripplot(
        table, x=value, y=group, order=list(colours), hue=group, palette=dict(colours),
        ax=ax, size=3.5, alpha=0.55, legend=False,
    )  # fmt: skip
    for row, name in enumerate(colours):
        median = table.loc[table[group] == name, value].median()
        ax.plot([median, median], [row - 0.35, row + 0.35], color=COLOURS["neutral"], linewidth=2)
        if medians is not None:
            ends = [medians[name].low, medians[name].high]
            ax.plot(ends, [row, row], color=COLOURS["neutral"], linewidth=4, solid_capstyle="butt")
    ax.set(xlabel=label, ylabel="")
    return ax


def paper_range(ax: Axes, low: float, high: float, *, horizontal: bool = False) -> Axes:
    """Shade the paper's figure."""
    span = ax.axhspan if horizontal else ax.axvspan
    span(low, high, color=COLOURS["masked"], alpha=0.25, linewidth=0, label="paper")
    return ax


def curves(
    table: pd.DataFrame,
    ax: Axes,
    *,
    x: str,
    y: str,
    group: str,
    colours: Mapping[str, str],
    labels: tuple[str, str],
) -> Axes:
    """Mean with its 95% interval against x, one line per group; the intervals are in the table.

    Args:
        table: columns x, y, ``low``, ``high`` and the group's.
        ax: where to.
        x: a column.
        y: a column.
        group: the column that says which line.
        colours: of each group.
        labels: of the two axes.
    """
    for name, colour in colours.items():
        part = table[table[group] == name].sort_values(x)
        ax.fill_between(part[x], part.low, part.high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(part[x], part[y], color=colour, marker="o", markersize=3, label=name)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.legend()
    return ax


def changes(
    table: pd.DataFrame, axes: Sequence[Axes], *, labels: Mapping[str, str]
) -> Sequence[Axes]:
    """Estimates for each change of the method: one row per change, neurons and null, 95% intervals.

    Args:
        table: from :func:`rotate_core.experiments.ablations_of_the_method.summary`.
        axes: one a figure.
        labels: of each figure, by its column in the table.
    """
    names = list(dict.fromkeys(table.change))
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for what, part in table.groupby("what", sort=False):
            colour = COLOURS["neuron" if what == "neurons" else "null"]
            shift = -0.13 if what == "neurons" else 0.13
            for change, estimate in zip(part.change, part[column], strict=True):
                row = names.index(change) + shift
                ax.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2)
                ax.plot(estimate.value, row, "o", color=colour, markersize=4)
            ax.plot([], [], "o-", color=colour, label=what, markersize=4)
        ax.axhspan(-0.5, 0.5, color=COLOURS["neutral"], alpha=0.08, linewidth=0)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    figure = axes[0].figure
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return axes


def verdicts(rows: Sequence[tuple[str, Any, str]], ax: Axes) -> Axes:
    """Each claim's figure less its null: (name, Estimate, verdict)."""
    for i, (_, estimate, verdict) in enumerate(rows):
        colour = VERDICT_COLOURS[verdict]
        ax.plot([estimate.low, estimate.high], [i, i], color=colour, linewidth=2.5)
        ax.plot(estimate.value, i, "o", color=colour)
    for verdict in dict.fromkeys(verdict for _, _, verdict in rows):
        ax.plot([], [], "o-", color=VERDICT_COLOURS[verdict], label=verdict)
    ax.set_yticks(range(len(rows)), [f"{name} ({e.n_clusters})" for name, e, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set_xlabel("ours less the null")
    if rows:
        ax.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=3)
    return ax


def against_paper(
    rows: Sequence[tuple[str, Any, Any, tuple[float, float]]], ax: Axes, *, most: float = 1.0
) -> Axes:
    """Ours, its null, and the paper's figure, one row per claim.

    Args:
        rows: (name, our Estimate, the null's Estimate, the paper's range).
        ax: where to.
        most: where an open range ends.
    """
    for i, (_, ours, null, (low, high)) in enumerate(rows):
        ends = (low - 0.006, min(high, most) + 0.006)  # a single figure is drawn as a narrow range
        ax.plot(
            ends, [i, i], color=COLOURS["masked"], linewidth=14, alpha=0.35, solid_capstyle="butt"
        )
        for estimate, colour, shift in ((ours, "neuron", -0.12), (null, "null", 0.12)):
            ax.plot(
                [estimate.low, estimate.high], [i + shift] * 2, color=COLOURS[colour], linewidth=2
            )
            ax.plot(estimate.value, i + shift, "o", color=COLOURS[colour], markersize=5)
    for label, colour in (("ours", "neuron"), ("its null", "null"), ("the paper's", "masked")):
        ax.plot([], [], "o-", color=COLOURS[colour], label=label)
    ax.set_yticks(range(len(rows)), [f"{name} ({e.n_clusters})" for name, e, _, _ in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(None, most + 0.02), xlabel="figure of the claim")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return ax
