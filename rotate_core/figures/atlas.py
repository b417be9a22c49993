"""Figures of an atlas and of its null: tables to Axes. What is not significant is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from rotate_core.experiments.null_power import LEVEL
from rotate_core.experiments.null_turn import Turned
from rotate_core.figures.experiments import legend_above
from rotate_core.figures.style import COLOURS, nothing_to_draw
from rotate_core.null.calibration import SIGNIFICANT

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

LINE_STYLES = {
    "core": ("#0072B2", "o"),
    "support": ("#56B4E9", "o"),
    "own_support": ("#009E73", "o"),
    "peak": ("#F0E442", "o"),
    "share": ("#E69F00", "o"),
    "cosine": ("#D55E00", "o"),
    "objective": ("#CC79A7", "o"),
    "kurtosis": ("#595959", "o"),
    "exponential tail": (COLOURS["neuron"], "o"),
    "rank": (COLOURS["neutral"], "s"),
    "pooled null": ("#009E73", "D"),
    "generalised Pareto tail": ("#D55E00", "^"),
    "target-decoy": ("#CC79A7", "v"),
}
"""Colour and marker of each statistic of a channel, and of each way from a null to p-values."""


def map_of_a_model(summary: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Kurtosis, support, significant channels (of :meth:`Atlas.summary`) against layer, by kind."""
    titles = ("median kurtosis", "median support", "significant channels")
    for ax, title in zip(axes, titles, strict=True):
        column = title.removeprefix("median ").removesuffix(" channels")
        for kind, rows in summary.groupby("kind"):
            colour = COLOURS[str(kind)]
            ax.plot(rows["layer"], rows[column], color=colour, marker="o", label=kind)
            if f"null_{column}" in rows:
                ax.plot(rows["layer"], rows[f"null_{column}"], ".:", color=COLOURS["null"])
        ax.set(ylabel=title, xlabel="layer", ylim=(0, None), xticks=sorted(set(summary["layer"])))
    axes[-1].yaxis.set_major_formatter("{x:.0%}")
    axes[0].plot([], [], ".:", color=COLOURS["null"], label="null")
    axes[0].legend()
    return axes


def beside_the_null(
    neurons: pd.DataFrame, null: pd.DataFrame, ax: Axes, *, column: str, label: str
) -> Axes:
    """One statistic's distribution over channels of neurons, over the same of matched vectors."""
    low = min(neurons[column].min(), null[column].min())
    high = max(neurons[column].quantile(0.99), null[column].quantile(0.99))
    if low == high:  # one value alone, as where no channel has a tail
        high = low + 1
    bins = np.linspace(low, high, 25)
    for table, colour, name in ((null, "null", "matched vectors"), (neurons, "neuron", "neurons")):
        sns.histplot(
            x=table[column].clip(low, high), bins=bins, stat="density", element="step", alpha=0.3,
            color=COLOURS[colour], label=name, ax=ax,
        )  # fmt: skip
    ax.set(xlabel=label, ylabel="density")
    return ax


def certified_channels(table: pd.DataFrame, ax: Axes) -> Axes:
    """Each row's kurtosis against its cosine: significant channels in colour, the others grey."""
    beyond = table["q_value"] < SIGNIFICANT
    names = {"null": "not significant", "neuron": f"q < {SIGNIFICANT:g}"}
    for rows, colour in ((table[~beyond], "null"), (table[beyond], "neuron")):
        ax.scatter(
            rows["cosine"], rows["kurtosis"], s=16, alpha=0.6, linewidth=0, color=COLOURS[colour],
            label=f"{names[colour]} ({len(rows)})",
        )  # fmt: skip
    ax.set(xlabel="cosine with the neuron", ylabel="excess kurtosis", yscale="symlog")
    ax.legend(loc="upper right")
    return ax


def certified_by_cosine(table: pd.DataFrame, turned: Turned, ax: Axes) -> Axes:
    """Share of channels beyond the null by their cosine with the neuron, in steps of a tenth.

    Args:
        table: one row per channel, with its cosine and q_value.
        turned: where what is near begins; marked.
        ax: where to.
    """
    lefts = np.floor(10 * table["cosine"].clip(upper=0.999)).astype(int)
    for left, inside in (table["q_value"] < SIGNIFICANT).groupby(lefts):
        x = left / 10 + 0.05
        ax.bar(x, inside.mean(), 0.085, color=COLOURS["neuron"], linewidth=0)
        text = f"{inside.sum()} of\n{len(inside)}"
        on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.text(x, inside.mean() + 0.02, text, ha="center", va="bottom", bbox=on_white)
    ax.axvline(turned.cosine, color=COLOURS["neutral"], linestyle="--", linewidth=1)
    label = "5% of random\nvectors' are\nbeyond here"
    ax.text(turned.cosine - 0.01, 1.2, label, color=COLOURS["neutral"], ha="right", va="top")
    ax.set(xlabel="cosine with the neuron", ylabel="channels that stand out", ylim=(0, 1.22))
    ax.set_yticks([0, 0.5, 1])
    ax.yaxis.set_major_formatter("{x:.0%}")
    return ax


def power_curves(power: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share of planted channels found against their strength, one panel per size of cluster."""
    for ax, (size, rows) in zip(axes, power.groupby("size"), strict=True):
        for name, line in rows.groupby("statistic", sort=False):
            _line(ax, line["strength"], line["power"], name)
        _chance(ax, LEVEL)
        ax.set(title=f"{size} tokens", xlabel="planted strength", ylabel="found", ylim=(0, 1))
        ax.yaxis.set_major_formatter("{x:.0%}")
    legend_above(axes[0], ncols=3)
    return axes


def where_hidden(table: pd.DataFrame, ax: Axes, *, names: Mapping[str, str]) -> Axes:
    """Shares of planted channels against how far out their tokens stood, with 95% intervals.

    Args:
        table: from :func:`rotate_core.experiments.null_hidden.power_where_hidden`.
        ax: where to.
        names: the columns to draw, and what the legend calls each; one that is no statistic of a
            channel is dashed.
    """
    for i, (column, label) in enumerate(names.items()):
        x = np.arange(len(table)) + 0.1 * (i - (len(names) - 1) / 2)
        colour, marker = LINE_STYLES.get(column, (COLOURS["neutral"], "s"))
        line = "-" if column in LINE_STYLES else "--"
        estimates = list(table[column])
        ax.vlines(x, [e.low for e in estimates], [e.high for e in estimates], color=colour, lw=2)
        ax.plot(
            x, [e.value for e in estimates], line, color=colour, marker=marker, markersize=5,
            label=label,
        )  # fmt: skip
    steps = [f"{seen}\n({n})" for seen, n in zip(table.seen, table.n, strict=True)]
    ax.set_xticks(range(len(table)), steps)
    ax.set(xlabel="mean z-score of their tokens in the vector", ylim=(-0.03, 1.03))
    ax.set_ylabel("planted channels")
    ax.yaxis.set_major_formatter("{x:.0%}")
    legend_above(ax, ncols=2)
    return ax


def validity_and_power(
    valid: pd.DataFrame, discovered: pd.DataFrame, axes: Sequence[Axes]
) -> Sequence[Axes]:
    """The honesty of each way to a p-value, and how often it certifies one planted channel."""
    left, right = axes
    for name, line in valid.groupby("method", sort=False):
        _line(left, line["level"], line["ratio"], name)
    _chance(left, 1)
    left.set(title="too often", xlabel="p-value of at most", ylabel="times as often as honest")
    left.set(xscale="log", yscale="symlog", ylim=(0, 2 * max(1, valid["ratio"].max())))
    for name, line in discovered[discovered.planted == 1].groupby("method", sort=False):
        _line(right, line["strength"], line["power"], name)
    right.set(title="found", xlabel="planted strength", ylabel="certified", ylim=(0, 1.02))
    right.yaxis.set_major_formatter("{x:.0%}")
    legend_above(right, ncols=2)
    return axes


def p_value_histograms(
    groups: Mapping[str, Sequence[float]], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """p-values of each group in ten bins, one panel per group, and what chance gives."""
    for ax, (title, values) in zip(axes, groups.items(), strict=True):
        colour = COLOURS["null"] if "matched" in title else COLOURS["neuron"]
        bins = np.linspace(0, 1, 11)
        sns.histplot(x=values, bins=bins, stat="proportion", color=colour, alpha=1, ax=ax)
        _chance(ax, 0.1)
        ax.set(title=title, xlabel="p-value", ylabel="channels")
        ax.yaxis.set_major_formatter("{x:.0%}")
    return axes


def by_position(shares: pd.DataFrame, ax: Axes) -> Axes:
    """Share of channels with a small p-value by their position (row) and a statistic (column)."""
    for name in shares:
        _line(ax, shares.index + 1, shares[name], name)
    _chance(ax, LEVEL)
    ax.set(xlabel="position of the channel", ylabel=f"p < {LEVEL:g}", ylim=(0, None))
    ax.set_xticks(shares.index + 1)
    ax.yaxis.set_major_formatter("{x:.0%}")
    legend_above(ax, ncols=3)
    return ax


def _line(ax: Axes, x: ArrayLike, y: ArrayLike, name: object) -> None:
    colour, marker = LINE_STYLES[str(name)]
    ax.plot(x, y, color=colour, marker=marker, markersize=4, label=name)


def _chance(ax: Axes, level: float) -> None:
    ax.axhline(level, color=COLOURS["neutral"], linewidth=0.8, linestyle="--")


def roundings(rows: pd.DataFrame, ax: Axes, *, chosen: str) -> Axes:
    """Share of channels that a rounding of U leaves as they are, over the size of its file.

    Args:
        rows: by the largest whole number: megabytes, channels, same, first_channels, first_same;
            as benchmarks/explorer.py has them.
        ax: where to.
        chosen: the row that is in use.
    """
    if not len(rows):
        return nothing_to_draw(ax, "Nothing was measured.")
    shares = {"first channels": ("first_same", "first_channels"), "all": ("same", "channels")}
    for (label, (same, of)), marker in zip(shares.items(), "os", strict=True):
        filled = COLOURS["neuron"] if marker == "o" else "none"
        ax.plot(
            rows["megabytes"], rows[same] / rows[of], marker=marker, color=COLOURS["neuron"],
            markerfacecolor=filled, linestyle="-" if marker == "o" else ":", label=label,
        )  # fmt: skip
    for name, row in rows.iterrows():
        place = (row["megabytes"], row["first_same"] / row["first_channels"])
        ax.annotate(str(name), place, xytext=(0, 6), textcoords="offset points", ha="center")
    ax.axvline(rows.loc[chosen, "megabytes"], color=COLOURS["neutral"], linestyle="--", linewidth=1)
    ax.set(xlabel="megabytes", ylabel="channels that stay", ylim=(0, 1.12))
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.legend(loc="lower right")
    return ax
