"""Figures of the descriptions, head to head: tables to Axes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rotate_core.figures.experiments import legend_above, whiskers
from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate

KERNEL_COLOURS = {"exact": COLOURS["neutral"], "related": COLOURS["masked"]}
FILLED: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
TEXT_MARKS = (FILLED, FILLED | {"marker": "s", "markerfacecolor": "white"})
"""A filled circle for the first text, a hollow square for the second."""
SIGN_MARKERS = {"positive": "^", "negative": "v"}


def strips_by_polarity(
    table: pd.DataFrame, axes: Sequence[Axes], *, groups: Mapping[str, Sequence[str]], value: str
) -> Sequence[Axes]:
    """One row per method, one point per neuron; the polarities one above the other, medians barred.

    Args:
        table: columns method, kernel, polarity and the value's.
        axes: one per kernel.
        groups: methods by the heading that they go under, in order from the top.
        value: the column to draw, from 0 to 1.
    """
    order = [method for methods in groups.values() for method in methods]
    signs = [sign for sign in SIGN_MARKERS if (table.polarity == sign).any()]
    jitter = np.random.default_rng(0)  # of the drawing alone
    for ax, kernel in zip(axes, table.kernel.unique(), strict=True):
        parts = table[table.kernel == kernel].groupby(["method", "polarity"])[value]
        for (method, sign), values in parts:
            row = order.index(method) + _shift(signs.index(sign), len(signs))
            ax.scatter(
                values, row + jitter.uniform(-0.12, 0.12, len(values)), s=9, alpha=0.4,
                marker=SIGN_MARKERS[sign], color=COLOURS["neuron"], linewidth=0,
            )  # fmt: skip
            ax.plot([values.median()] * 2, [row - 0.2, row + 0.2], color="black", linewidth=2.2)
        ax.set(xlabel=value, xlim=(0, 1.01), xticks=[0, 0.5, 1], title=kernel)
    for sign in signs:
        axes[0].plot([], [], SIGN_MARKERS[sign], color=COLOURS["neuron"], label=sign)
    return _finished(axes, groups)


def means_by_text(
    table: pd.DataFrame, axes: Sequence[Axes], *, groups: Mapping[str, Sequence[str]], value: str
) -> Sequence[Axes]:
    """The mean of each method with its interval, on one text and on another: one row per method.

    Arguments are those of :func:`strips_by_polarity`, but for the table: columns text (one or two),
    kernel, method, and the value's, of Estimates.
    """
    order = [method for methods in groups.values() for method in methods]
    texts = list(table.text.unique())
    for ax, (kernel, part) in zip(axes, table.groupby("kernel", sort=False), strict=True):
        for method, text, estimate in zip(part.method, part.text, part[value], strict=True):
            n = texts.index(text)
            row = order.index(method) + _shift(n, len(texts))
            _interval(ax, estimate, row, KERNEL_COLOURS[kernel], TEXT_MARKS[n])
        ax.set(xlabel=f"mean {value}", title=kernel)
    for text, mark in zip(texts, TEXT_MARKS, strict=False):
        axes[0].plot([], [], color=COLOURS["neutral"], label=text, **mark)
    return _finished(axes, groups)


def win_ratios(table: pd.DataFrame, ax: Axes) -> Axes:
    """Wins to losses with the interval, on a log scale: one row per opponent.

    Marks are coloured by kernel, and shaped by text.

    Args:
        table: from :func:`rotate_core.experiments.descriptions.contests.contests`, of one method.
        ax: where to.
    """
    opponents, texts = list(table.against.unique()), list(table.text.unique())
    kernels = [kernel for kernel in KERNEL_COLOURS if (table.kernel == kernel).any()]
    for contest in table.itertuples():
        n = kernels.index(contest.kernel) * len(texts) + texts.index(contest.text)
        row = opponents.index(contest.against) + _shift(n, len(kernels) * len(texts))
        mark = TEXT_MARKS[texts.index(contest.text)]
        _interval(ax, contest.ratio, row, KERNEL_COLOURS[contest.kernel], mark)
        ax.annotate(
            f"{contest.won} / {contest.tied} / {contest.lost}", (1.0, row), (4, 0), fontsize=10,
            xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
        )  # fmt: skip
    for kernel in kernels:
        ax.plot([], [], color=KERNEL_COLOURS[kernel], linewidth=2.5, label=kernel)
    for text, mark in zip(texts, TEXT_MARKS, strict=False):
        ax.plot([], [], color=COLOURS["neutral"], label=text, **mark)
    for edge in range(1, len(opponents)):
        ax.axhline(edge - 0.5, color=COLOURS["null"], linewidth=0.4)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.axvline(1, color=COLOURS["neutral"], linewidth=0.8)
    ax.set_yticks(range(len(opponents)), [_wrapped(opponent) for opponent in opponents])
    ax.set(ylim=(len(opponents) - 0.5, -0.5), xlabel="wins for one loss")
    ax.annotate(
        "won / tied\n/ lost", (1.0, 1.0), (4, 2), xycoords="axes fraction", fontsize=10,
        textcoords="offset points", va="bottom",
    )  # fmt: skip
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return ax


def by_layer(
    tables: Mapping[str, pd.DataFrame], axes: Sequence[Axes], *, methods: Mapping[str, str]
) -> Sequence[Axes]:
    """A mean figure against layer, one line per method and one panel per table.

    Args:
        tables: by the panel's title: columns method and layer, and the figure, which is AUROC.
        axes: one per table.
        methods: a colour for each that is drawn, where the table has it.
    """
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        for method, colour in methods.items():
            line = table[table.method == method].groupby("layer").auroc.mean()
            if len(line):
                at = [str(layer) for layer in line.index]
                ax.plot(at, line, "o-", color=colour, markersize=4, label=method)
        ax.axhline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        ax.set(title=title, xlabel="layer", ylabel="mean AUROC")
    legend_above(axes[0], ncols=2)
    return axes


def under_other_thresholds(
    changed: pd.DataFrame, axes: Sequence[Axes], *, colours: Mapping[str, str]
) -> Sequence[Axes]:
    """What channels have more in AUROC than others, one row per changed threshold.

    Args:
        changed: from :func:`rotate_core.experiments.descriptions.contests.sensitivity`.
        axes: one per kernel.
        colours: of each other method.
    """
    names = list(dict.fromkeys(zip(changed.threshold, changed.value, strict=True)))
    for ax, kernel in zip(axes, KERNEL_COLOURS, strict=True):
        for i, (against, part) in enumerate(changed.groupby("against", sort=False)):
            rows = [
                names.index(name) + _shift(i, len(colours))
                for name in zip(part.threshold, part.value, strict=True)
            ]
            gaps = list(part[f"{kernel}: gap"])
            whiskers(ax, rows, gaps, color=colours[str(against)], label=f"less {against}")
        ax.axvline(0, color=COLOURS["neutral"], linewidth=0.8)
        ax.set_yticks(range(len(names)), [f"{name}: {value:g}" for name, value in names])
        ax.set(ylim=(len(names) - 0.5, -0.5), title=kernel, xlabel="AUROC of channels, less that")
    legend_above(axes[0], ncols=2)
    return axes


def _finished(axes: Sequence[Axes], groups: Mapping[str, Sequence[str]]) -> Sequence[Axes]:
    """One row per method, a line between groups and one at chance, a legend above."""
    order = [method for methods in groups.values() for method in methods]
    for ax in axes:
        for edge in np.cumsum([len(methods) for methods in groups.values()])[:-1]:
            ax.axhline(edge - 0.5, color=COLOURS["null"], linewidth=0.8)
        ax.axvline(0.5, color=COLOURS["neutral"], linewidth=0.8)
        ax.set_ylabel("")
        ax.set_yticks(range(len(order)), order)
        ax.set_ylim(len(order) - 0.5, -0.5)
    legend_above(axes[0], ncols=2)
    return axes


def _shift(n: int, of: int) -> float:
    """Offset of the n-th of several marks from the middle of their row."""
    return (n - (of - 1) / 2) * 0.8 / of


def _interval(ax: Axes, estimate: Estimate, row: float, colour: str, mark: dict[str, Any]) -> None:
    ax.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=1.8)
    ax.plot(estimate.value, row, color=colour, **mark)


def _wrapped(method: str) -> str:
    """On short lines, for a phone."""
    return textwrap.fill(method.replace("+", "+ "), 14).replace("+ ", "+")
