"""Figures of the descriptions, head to head: tables to Axes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import seaborn as sns

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate

KERNEL_COLOURS = {"exact": COLOURS["neutral"], "related": COLOURS["masked"]}
MARKS = ("o", "s")
"""A filled circle for the first text, a hollow square for the second."""


def strips_by_polarity(
    table: pd.DataFrame, axes: Sequence[Axes], *, groups: Mapping[str, Sequence[str]], value: str
) -> Sequence[Axes]:
    """One row per method, one point per neuron; the polarities one above the other, medians barred.

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


def means_by_text(
    table: pd.DataFrame, axes: Sequence[Axes], *, groups: Mapping[str, Sequence[str]], value: str
) -> Sequence[Axes]:
    """The mean of each method with its interval, on one text and on another: one row per method.

    Args:
        table: columns text, kernel, method, and the value's, of Estimates; one or two texts.
        axes: one a kernel.
        groups: methods by the heading that they go under, in order from the top.
        value: the column to draw.
    """
    order = [method for methods in groups.values() for method in methods]
    texts = list(table.text.unique())
    for ax, (kernel, part) in zip(axes, table.groupby("kernel", sort=False), strict=True):
        for row in part.itertuples():
            place = texts.index(row.text)
            at = order.index(row.method) + _spread(place, len(texts))
            _interval(ax, getattr(row, value), at, KERNEL_COLOURS[kernel], place)
        edge = 0
        for methods in list(groups.values())[:-1]:
            edge += len(methods)
            ax.axhline(edge - 0.5, color=COLOURS["null"], linewidth=0.8)
        ax.axvline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        ax.set(xlabel=f"mean {value}", ylabel="", title=kernel)
    axes[0].set_yticks(range(len(order)), [_wrapped(method) for method in order])
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    for place, text in enumerate(texts):
        axes[0].plot([], [], color=COLOURS["neutral"], label=text, **_mark(place))
    axes[0].figure.legend(loc="outside upper right", ncols=2, handletextpad=0.1)
    return axes


def win_ratios(table: pd.DataFrame, ax: Axes) -> Axes:
    """Wins to losses with the interval, on a log scale: one row per opponent.

    Marks are coloured by kernel, and shaped by text.

    Args:
        table: from :func:`rotate_core.experiments.descriptions.contests.contests`, of one method.
        ax: where to.
    """
    others, texts = list(table.against.unique()), list(table.text.unique())
    parts = list(table.groupby(["kernel", "text"], sort=False))
    parts.sort(key=lambda part: list(KERNEL_COLOURS).index(part[0][0]))
    for n, ((kernel, text), part) in enumerate(parts):
        for row in part.itertuples():
            at = others.index(row.against) + _spread(n, len(parts))
            _interval(ax, row.ratio, at, KERNEL_COLOURS[kernel], texts.index(text))
            ax.annotate(
                f"{row.won} / {row.tied} / {row.lost}", (1.0, at), (4, 0), fontsize=10,
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            )  # fmt: skip
    for kernel in table.kernel.unique():
        ax.plot([], [], color=KERNEL_COLOURS[kernel], linewidth=2.5, label=kernel)
    for place, text in enumerate(texts):
        ax.plot([], [], color=COLOURS["neutral"], label=text, **_mark(place))
    for edge in range(1, len(others)):
        ax.axhline(edge - 0.5, color=COLOURS["null"], linewidth=0.4)
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
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return ax


def _spread(n: int, of: int) -> float:
    """Where the n-th of several marks of a row stands, from the row's middle."""
    return (n - (of - 1) / 2) * 0.8 / of


def _mark(place: int) -> dict[str, Any]:
    """How a text is drawn."""
    filled = {} if place == 0 else {"markerfacecolor": "white"}
    return {"marker": MARKS[place], "linestyle": "none", "markersize": 5} | filled


def _interval(ax: Axes, estimate: Estimate, at: float, colour: str, place: int) -> None:
    ax.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=1.8)
    ax.plot(estimate.value, at, color=colour, **_mark(place))


def _wrapped(method: str) -> str:
    """On short lines, for a phone."""
    return textwrap.fill(method.replace("+", "+ "), 14).replace("+ ", "+")
