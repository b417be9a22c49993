"""Figures of the causal chapters: what an ablation takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ROW_COLOURS = {
    "neurons": COLOURS["neuron"],
    "matched vectors": COLOURS["masked"],
    "matched rotations": COLOURS["null"],
}
"""A colour for neurons and for each of their two nulls."""


def points_with_means(
    table: pd.DataFrame,
    means: Mapping[tuple[Any, str], Any],
    ax: Axes,
    *,
    value: str,
    group: str,
    label: str,
) -> Axes:
    """Three rows of points a group, neurons above their nulls, each with its mean and interval.

    Args:
        table: one row per value, with the columns ``value``, ``group`` and ``what``.
        means: the `Estimate` of each (group, what) that there is.
        ax: where to.
        value: the column to draw.
        group: the column whose values are the groups, from the top.
        label: of the value's axis.
    """
    groups = list(dict.fromkeys(table[group]))
    sns.stripplot(
        table, x=value, y=group, order=groups, hue="what", hue_order=list(ROW_COLOURS),
        palette=ROW_COLOURS, dodge=True, orient="h", ax=ax, size=3, alpha=0.4, legend=False,
    )  # fmt: skip
    for row, name in enumerate(groups):
        for shift, (what, colour) in zip((-0.27, 0, 0.27), ROW_COLOURS.items(), strict=True):
            if (name, what) not in means:
                continue
            estimate, y = means[name, what], row + shift
            ax.plot([estimate.low, estimate.high], [y, y], color="black", linewidth=2.5)
            ax.plot(
                estimate.value,
                y,
                "D",
                color=colour,
                markersize=7,
                markeredgecolor="black",
                zorder=4,
            )
    for what, colour in ROW_COLOURS.items():
        ax.plot([], [], "D", color=colour, markeredgecolor="black", label=what)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.8, handletextpad=0.1
    )
    ax.set(xlabel=label, ylabel="")
    return ax


def text_before_and_after(
    tokens: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    axes: Sequence[Axes],
    *,
    titles: tuple[str, str],
    width: int = 40,
) -> Sequence[Axes]:
    """The same text twice, each token on a ground as dark as the neuron's activation there.

    Lines are short, so that letters stay as large as the text around the figure on a phone.

    Args:
        tokens: in reading order, leading spaces kept, other white space made visible.
        before: activation at each token.
        after: the same with the channel ablated.
        axes: two, drawn as pages of text.
        titles: of the two.
        width: characters a line.
    """
    scale = max(1e-12, float(np.max(np.abs([*before, *after]))))
    for ax, values, title in zip(axes, (before, after), titles, strict=True):
        places = _lines(tokens, width)
        for token, value, (line, column) in zip(tokens, values, places, strict=True):
            word = token.lstrip(" ")
            colour = COLOURS["positive" if value >= 0 else "negative"]
            share = abs(value) / scale
            if share > 0.02:
                ax.barh(
                    line,
                    len(word),
                    left=column,
                    height=0.86,
                    color=colour,
                    alpha=share,
                    linewidth=0,
                )
            ax.text(
                column, line, word, family="monospace", fontsize=14, va="center", ha="left",
                color="white" if share > 0.55 else "black",
            )  # fmt: skip
        line = places[-1][0]
        ax.set(xlim=(0, width), ylim=(line + 0.6, -0.6))
        ax.set_title(title, fontsize=14)
        ax.axis("off")
    return axes


def _lines(tokens: Sequence[str], width: int) -> list[tuple[int, int]]:
    """(line, column) of each token's first letter; lines break between words, where they can."""
    words: list[list[str]] = []
    for token in tokens:
        if token.startswith(" ") or not words:
            words.append([])
        words[-1].append(token.lstrip(" "))
    places, line, column = [], 0, 0
    for word in words:
        if column and column + 1 + sum(map(len, word)) > width:
            line, column = line + 1, 0
        column += bool(column)  # the space
        for part in word:
            if column and column + len(part) > width:  # a word longer than what is left of a line
                line, column = line + 1, 0
            places.append((line, column))
            column += len(part)
    return places


def no_longer_promoted(
    tokens: Sequence[str], drops: Sequence[float], own: Sequence[bool], ax: Axes
) -> Axes:
    """Horizontal bars, a token each, the largest drop on top; the channel's own in colour.

    Args:
        tokens: as they are to be read.
        drops: of their logits.
        own: whether each is in the channel's tail.
        ax: where to.
    """
    colours = [COLOURS["out"] if mine else COLOURS["null"] for mine in own]
    ax.barh(range(len(tokens)), drops, color=colours)
    ax.set_yticks(range(len(tokens)), tokens, family="monospace", fontsize=14)
    ax.invert_yaxis()
    for name, label in (("out", "in the channel's tail"), ("null", "another token")):
        ax.barh([0], [0], color=COLOURS[name], label=label)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.2, 1.0), ncols=2, fontsize=13)
    ax.set_xlabel("drop of the logit", fontsize=14)
    ax.tick_params(axis="x", labelsize=13)
    return ax


def divergence_by_place(means: Mapping[tuple[str, str], Any], ax: Axes) -> Axes:
    """log10 of the divergence on topic over that elsewhere: a group a comparison.

    Args:
        means: an `Estimate` for each (comparison, what), in order from the top.
        ax: where to.
    """
    groups = list(dict.fromkeys(group for group, _ in means))
    for shift, (what, colour) in zip((-0.2, 0, 0.2), ROW_COLOURS.items(), strict=True):
        for row, group in enumerate(groups):
            estimate, y = means[group, what], row + shift
            ax.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2.5)
            ax.plot(
                estimate.value, y, "D", color=colour, markersize=7, markeredgecolor="black",
                label=what if row == 0 else None,
            )  # fmt: skip
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("divergence on topic over that, log10")
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, columnspacing=0.8, handletextpad=0.1
    )
    return ax
