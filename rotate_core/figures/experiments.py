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
    """One row of points per group, with its median: every value is seen, none is summed away.

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
        ax.vlines(median, row - 0.35, row + 0.35, color=COLOURS["neutral"], linewidth=2)
        if medians:
            low, high = medians[name].low, medians[name].high
            ax.hlines(row, low, high, color=COLOURS["neutral"], linewidth=4)
    ax.set(xlabel=label, ylabel="")
    return ax


def paper_range(ax: Axes, low: float, high: float, *, horizontal: bool = False) -> Axes:
    """Shade the paper's figure."""
    span = ax.axhspan if horizontal else ax.axvspan
    span(low, high, color=COLOURS["paper"], alpha=0.25, linewidth=0, label="paper")
    return ax


def band(
    ax: Axes, x: Any, y: Any, low: Any, high: Any, *, color: str, label: str, marker: str = "o"
) -> None:
    """A line of y against x, with the interval from low to high around it."""
    ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    ax.plot(x, y, color=color, marker=marker, markersize=3, label=label)


def whiskers(
    ax: Axes,
    rows: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    color: str,
    label: str,
    size: float = 4,
) -> None:
    """Each `Estimate` as a point on its interval, one per row."""
    ax.hlines(rows, [e.low for e in estimates], [e.high for e in estimates], color=color, lw=2)
    ax.plot([e.value for e in estimates], rows, "o", color=color, markersize=size)
    ax.plot([], [], "o-", color=color, label=label, markersize=size)


def untested(ax: Axes, why: str) -> Axes:
    """Say in a panel's place why there is nothing to draw."""
    ax.axis("off")
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center")
    return ax


def legend_above(ax: Axes, *, ncols: int) -> None:
    """The figure's legend, of a panel's marks, over all panels; once, however many panels ask."""
    if not ax.figure.legends:
        handles = ax.get_legend_handles_labels()
        ax.figure.legend(
            *handles, loc="outside upper center", ncols=ncols, columnspacing=0.8, handletextpad=0.2
        )


def curves(estimates: pd.Series, ax: Axes, *, colours: Mapping[str, str]) -> Axes:
    """Estimates with their 95% intervals, one line per group.

    Args:
        estimates: by group and x, ascending.
        ax: where to.
        colours: of each group.
    """
    for name, colour in colours.items():
        part = estimates[name]
        value, low, high = zip(*((e.value, e.low, e.high) for e in part), strict=True)
        band(ax, part.index, value, low, high, color=colour, label=name)
    ax.legend()
    return ax


def changes(
    means: pd.DataFrame, axes: Sequence[Axes], *, labels: Mapping[str, str]
) -> Sequence[Axes]:
    """Estimates for each change of the method: one row per change, neurons and null, 95% intervals.

    Args:
        means: a column of `Estimate` for each figure, by change and what.
        axes: one per figure.
        labels: of each figure, by its column in the table.
    """
    names = list(means.index.unique("change"))
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for what, part in means[column].groupby("what", sort=False):
            colour = COLOURS["neuron" if what == "neurons" else "null"]
            shift = -0.13 if what == "neurons" else 0.13
            rows = [names.index(change) + shift for change, _ in part.index]
            whiskers(ax, rows, part, color=colour, label=what)
        ax.axhspan(-0.5, 0.5, color=COLOURS["neutral"], alpha=0.08, linewidth=0)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    figure = axes[0].figure
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return axes


def verdicts(rows: Sequence[tuple[str, Any, str]], ax: Axes) -> Axes:
    """Each claim's figure less its null: (name, Estimate, verdict)."""
    for verdict in dict.fromkeys(verdict for _, _, verdict in rows):
        places = [i for i, row in enumerate(rows) if row[2] == verdict]
        estimates = [rows[i][1] for i in places]
        whiskers(ax, places, estimates, color=VERDICT_COLOURS[verdict], label=verdict, size=6)
    ax.set_yticks(range(len(rows)), [f"{name} ({e.n_clusters})" for name, e, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set_xlabel("ours less the null")
    if rows:
        ax.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=3)
    return ax


def against_paper(rows: Sequence[tuple[Any, ...]], ax: Axes, *, most: float = 1.0) -> Axes:
    """Ours, its null, and the paper's figure, one row per claim.

    Args:
        rows: (name, our Estimate, the null's Estimate, the paper's range).
        ax: where to.
        most: where an open range ends.
    """
    places = range(len(rows))
    lows = [low - 0.006 for *_, (low, _) in rows]  # a single figure is drawn as a narrow range
    highs = [min(high, most) + 0.006 for *_, (_, high) in rows]
    ax.hlines(places, lows, highs, color=COLOURS["paper"], linewidth=14, alpha=0.35)
    ours, null = ([row[i] for row in rows] for i in (1, 2))
    above, below = ([i + shift for i in places] for shift in (-0.12, 0.12))
    whiskers(ax, above, ours, color=COLOURS["neuron"], label="ours", size=5)
    whiskers(ax, below, null, color=COLOURS["null"], label="its null", size=5)
    ax.plot([], [], "o-", color=COLOURS["paper"], label="the paper's")
    ax.set_yticks(range(len(rows)), [f"{name} ({e.n_clusters})" for name, e, _, _ in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(None, most + 0.02), xlabel="figure of the claim")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return ax
