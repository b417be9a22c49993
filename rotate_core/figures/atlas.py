"""Figures of an atlas and of its null: tables to Axes. What is not significant is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

STATISTIC_COLOURS = {
    "core": "#0072B2",
    "support": "#56B4E9",
    "own_support": "#009E73",
    "peak": "#F0E442",
    "share": "#E69F00",
    "cosine": "#D55E00",
    "objective": "#CC79A7",
    "kurtosis": "#595959",
}
"""A colour for each statistic that channels can be ranked by."""
NULL_MODEL_COLOURS = {
    "exponential tail": COLOURS["neuron"],
    "rank": COLOURS["neutral"],
    "pooled null": "#009E73",
    "generalised Pareto tail": "#D55E00",
    "target-decoy": "#CC79A7",
}
"""A colour for each way from a null to what is certified."""


def map_of_a_model(summary: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Kurtosis, support and the share of significant channels against layer, one line per kind.

    Args:
        summary: of :meth:`Atlas.summary`, with a null.
        axes: three.
    """
    columns = {
        "kurtosis": "median kurtosis",
        "support": "median support",
        "significant": "significant channels",
    }
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        for kind, rows in summary.groupby("kind"):
            colour = COLOURS[str(kind)]
            ax.plot(rows["layer"], rows[column], color=colour, marker="o", label=kind)
            if f"null_{column}" in rows:
                null = rows[f"null_{column}"]
                ax.plot(rows["layer"], null, color=COLOURS["null"], marker=".", linestyle=":")
        ax.set(title=label, xlabel="layer", ylim=(0, None), xticks=sorted(set(summary["layer"])))
    axes[-1].yaxis.set_major_formatter("{x:.0%}")
    axes[0].plot([], [], color=COLOURS["null"], marker=".", linestyle=":", label="null")
    axes[0].legend()
    return axes


def beside_the_null(
    neurons: pd.DataFrame, null: pd.DataFrame, ax: Axes, *, column: str, label: str
) -> Axes:
    """One statistic's distribution over neurons, over the same of matched vectors.

    Args:
        neurons: one row per channel.
        null: one row per channel of a matched vector.
        ax: where to.
        column: which statistic.
        label: of its axis.
    """
    low = min(neurons[column].min(), null[column].min())
    high = max(neurons[column].quantile(0.99), null[column].quantile(0.99))
    bins = np.linspace(low, high, 25)
    for table, colour, name in (
        (null, COLOURS["null"], "matched vectors"),
        (neurons, COLOURS["neuron"], "neurons"),
    ):
        values = table[column].clip(low, high)
        sns.histplot(
            x=values, bins=bins, stat="density", element="step", alpha=0.3, color=colour,
            label=name, ax=ax,
        )  # fmt: skip
    ax.set(xlabel=label, ylabel="density")
    return ax


def certified(table: pd.DataFrame, ax: Axes, *, level: float = 0.1) -> Axes:
    """Each channel by its cosine and its kurtosis: significant ones in colour, the others grey.

    Args:
        table: one row per channel, with q_value.
        ax: where to.
        level: q-value below which a channel is significant.
    """
    significant = table["q_value"] < level
    for rows, colour, name in (
        (table[~significant], COLOURS["null"], "not significant"),
        (table[significant], COLOURS["neuron"], f"q < {level:g}"),
    ):
        ax.scatter(
            rows["cosine"], rows["kurtosis"], s=16, alpha=0.6, color=colour, linewidth=0,
            label=f"{name} ({len(rows)})",
        )  # fmt: skip
    ax.set(xlabel="cosine with the neuron", ylabel="excess kurtosis", yscale="symlog")
    ax.legend(loc="upper right")
    return ax


def power_curves(
    power: pd.DataFrame, axes: Sequence[Axes], *, level: float = 0.05
) -> Sequence[Axes]:
    """The share of planted channels found, against how strongly they were planted.

    Args:
        power: rows with statistic, size, strength and power.
        axes: one a size of the planted cluster.
        level: p-value below which a channel counts as found: what chance gives.
    """
    for ax, (size, rows) in zip(axes, power.groupby("size"), strict=True):
        for statistic, line in rows.groupby("statistic", sort=False):
            ax.plot(
                line["strength"], line["power"], marker="o", markersize=4,
                color=STATISTIC_COLOURS[str(statistic)], label=statistic,
            )  # fmt: skip
        ax.axhline(level, color=COLOURS["neutral"], linewidth=0.7, linestyle="--")
        ax.set(title=f"{size} tokens", xlabel="planted strength", ylim=(0, 1))
        ax.yaxis.set_major_formatter("{x:.0%}")
    axes[0].set_ylabel("found")
    lines = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*lines, loc="outside upper right", ncols=4, fontsize="small")
    return axes


def null_models(valid: pd.DataFrame, found: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """How honest each way to a p-value is, and how often it certifies one planted channel.

    Args:
        valid: of :func:`rotate_core.experiments.null_validity.validity`.
        found: of :func:`rotate_core.experiments.null_validity.discoveries`; rows with one planted.
        axes: two.
    """
    left, right = axes
    for table, ax, x, y in (
        (valid, left, "level", "ratio"),
        (found[found.planted == 1], right, "strength", "found"),
    ):
        for (method, line), marker in zip(
            table.groupby("method", sort=False), "osD^v", strict=False
        ):
            ax.plot(
                line[x], line[y], marker=marker, markersize=5, alpha=0.8,
                color=NULL_MODEL_COLOURS[str(method)], label=method,
            )  # fmt: skip
    left.axhline(1, color=COLOURS["neutral"], linewidth=0.8, linestyle="--")
    left.set(title="too often", xlabel="p-value of at most", ylabel="times as often as honest")
    left.set(xscale="log", yscale="symlog", ylim=(0, 2 * max(1, valid["ratio"].max())))
    right.set(title="found", xlabel="planted strength", ylabel="certified", ylim=(0, 1.02))
    right.yaxis.set_major_formatter("{x:.0%}")
    lines = right.get_legend_handles_labels()
    right.figure.legend(*lines, loc="outside upper right", ncols=2, fontsize="small")
    return axes


def p_value_histograms(
    groups: Mapping[str, Sequence[float]], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """p-values in ten bins, one panel per group; the dashed line is what chance gives.

    Args:
        groups: p-values by title.
        axes: one a group.
    """
    for ax, (title, values) in zip(axes, groups.items(), strict=True):
        colour = COLOURS["null"] if "matched" in title else COLOURS["neuron"]
        weights = np.full(len(values), 1 / max(len(values), 1))
        ax.hist(values, bins=np.linspace(0, 1, 11).tolist(), weights=weights, color=colour)
        ax.axhline(0.1, color=COLOURS["neutral"], linewidth=0.8, linestyle="--")
        ax.set(title=title, xlabel="p-value")
        ax.yaxis.set_major_formatter("{x:.0%}")
    axes[0].set_ylabel("channels")
    return axes


def by_position(shares: pd.DataFrame, ax: Axes, *, level: float = 0.05) -> Axes:
    """Share of channels below a p-value, by the channel's position, one line per statistic.

    Args:
        shares: rows with statistic, channel and share.
        ax: where to.
        level: what chance gives.
    """
    for statistic, line in shares.groupby("statistic", sort=False):
        ax.plot(
            line["channel"] + 1, line["share"], marker="o", markersize=4,
            color=STATISTIC_COLOURS[str(statistic)], label=statistic,
        )  # fmt: skip
    ax.axhline(level, color=COLOURS["neutral"], linewidth=0.8, linestyle="--")
    ax.set(xlabel="position of the channel", ylabel=f"p < {level:g}", ylim=(0, None))
    ax.set_xticks(sorted(set(shares["channel"] + 1)))
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.figure.legend(loc="outside upper right", ncols=5, fontsize="small")
    return ax
