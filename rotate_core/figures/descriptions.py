"""Figures of the descriptions, head to head: tables to Axes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import seaborn as sns

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KERNEL_COLOURS = {"exact": COLOURS["neutral"], "related": COLOURS["masked"]}


def strips_by_polarity(
    table: pd.DataFrame, axes: Sequence[Axes], *, groups: Mapping[str, Sequence[str]], value: str
) -> Sequence[Axes]:
    """A row a method, a point a neuron, the two polarities above each other, a bar at each median.

    Args:
        table: columns method, kernel, polarity and the value's.
        axes: one a kernel.
        groups: methods by the heading that they go under, in order from the top.
        value: the column to draw, from 0 to 1.
    """
    order = [method for methods in groups.values() for method in methods]
    polarities = [p for p in ("positive", "negative") if (table.polarity == p).any()]
    for ax, kernel in zip(axes, table.kernel.unique(), strict=True):
        part = table[table.kernel == kernel]
        sns.stripplot(
            part, x=value, y="method", order=order, hue="polarity", hue_order=polarities,
            palette={p: COLOURS[p] for p in polarities}, dodge=len(polarities) > 1, ax=ax,
            size=2.2, alpha=0.4, jitter=0.18, legend=False,
        )  # fmt: skip
        shift = 0.2 if len(polarities) > 1 else 0.0
        for row, method in enumerate(order):
            for polarity, away in zip(polarities, (-shift, shift), strict=False):
                here = part[(part.method == method) & (part.polarity == polarity)]
                if len(here):
                    median, at = here[value].median(), row + away
                    ax.plot([median] * 2, [at - 0.2, at + 0.2], color="black", linewidth=2.2)
        edge = 0
        for methods in list(groups.values())[:-1]:
            edge += len(methods)
            ax.axhline(edge - 0.5, color=COLOURS["null"], linewidth=0.8)
        ax.axvline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        ax.set(xlabel=value, ylabel="", xlim=(0, 1.01), xticks=[0, 0.5, 1], title=kernel)
    axes[0].set_yticks(range(len(order)), [_wrapped(method) for method in order])
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    for polarity in polarities:
        axes[0].plot([], [], "o", color=COLOURS[polarity], label=polarity)
    axes[0].figure.legend(loc="outside upper right", ncols=2, handletextpad=0.1)
    return axes


def win_ratios(table: pd.DataFrame, ax: Axes) -> Axes:
    """Wins to losses with the interval, on a log scale: a row an opponent, a mark a kernel.

    Args:
        table: from :func:`rotate_core.experiments.descriptions.contests.contests`, of one method.
        ax: where to.
    """
    others = list(table.against.unique())
    for kernel, shift in zip(table.kernel.unique(), (-0.18, 0.18), strict=True):
        colour = KERNEL_COLOURS[kernel]
        for row in table[table.kernel == kernel].itertuples():
            at = others.index(row.against) + shift
            ax.plot([row.ratio.low, row.ratio.high], [at, at], color=colour, linewidth=2.5)
            ax.plot(row.ratio.value, at, "o", color=colour)
            ax.annotate(
                f"{row.won} / {row.tied} / {row.lost}", (1.0, at), (4, 0), fontsize=10,
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            )  # fmt: skip
        ax.plot([], [], "o-", color=colour, label=kernel)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.axvline(1, color=COLOURS["neutral"], linewidth=0.8)
    ax.set_yticks(range(len(others)), [_wrapped(other) for other in others])
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.set_xlabel("wins for one loss")
    ax.annotate(
        "won / tied\n/ lost", (1.0, 1.0), (4, 2), xycoords="axes fraction", fontsize=10,
        textcoords="offset points", va="bottom",
    )  # fmt: skip
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)
    return ax


def _wrapped(method: str) -> str:
    """On short lines, for a phone."""
    return textwrap.fill(method, 14)
