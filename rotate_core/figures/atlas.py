"""Figures of an atlas and of its null: tables to Axes. What is not significant is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from rotate_core.experiments.null_power import LEVEL
from rotate_core.figures.style import COLOURS
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
        ax.set(title=title, xlabel="layer", ylim=(0, None), xticks=sorted(set(summary["layer"])))
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


def power_curves(power: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share of planted channels found against their strength, one panel per size of cluster."""
    for ax, (size, rows) in zip(axes, power.groupby("size"), strict=True):
        for name, line in rows.groupby("statistic", sort=False):
            _line(ax, line["strength"], line["power"], name)
        _chance(ax, LEVEL)
        ax.set(title=f"{size} tokens", xlabel="planted strength", ylim=(0, 1))
        ax.yaxis.set_major_formatter("{x:.0%}")
    axes[0].set_ylabel("found")
    _legend_above(axes[0], ncols=4)
    return axes


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
    _legend_above(right, ncols=2)
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
        ax.set(title=title, xlabel="p-value", ylabel="channels" if ax is axes[0] else "")
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
    _legend_above(ax, ncols=5)
    return ax


def _line(ax: Axes, x: ArrayLike, y: ArrayLike, name: object) -> None:
    colour, marker = LINE_STYLES[str(name)]
    ax.plot(x, y, color=colour, marker=marker, markersize=4, label=name)


def _chance(ax: Axes, level: float) -> None:
    ax.axhline(level, color=COLOURS["neutral"], linewidth=0.8, linestyle="--")


def _legend_above(ax: Axes, *, ncols: int) -> None:
    lines = ax.get_legend_handles_labels()
    ax.figure.legend(*lines, loc="outside upper right", ncols=ncols, fontsize="small")
