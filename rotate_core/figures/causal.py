"""Figures of the causal chapters: what an ablation takes away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns

from rotate_core.figures.experiments import legend_above, whiskers
from rotate_core.figures.style import COLOURS, nothing_to_draw
from rotate_core.verdicts.comparison import MATCHED, NEURONS, ROTATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rotate_core.experiments.input_ablation import Snippet

ROW_COLOURS = {
    NEURONS: COLOURS["neuron"],
    MATCHED: COLOURS["matched"],
    ROTATIONS: COLOURS["rotation"],
}
"""A colour for neurons and for each of their two nulls."""
ROW_MARKERS = {NEURONS: "o", MATCHED: "D", ROTATIONS: "s"}


def points_with_means(
    table: pd.DataFrame, means: pd.DataFrame, ax: Axes, *, value: str, rotation: str, label: str
) -> Axes:
    """Three rows of points for each layer, neurons above their nulls, with means and intervals.

    Args:
        table: one row per channel, with the columns ``value``, ``rotation``, layer and what.
        means: of each layer of the table, from :func:`rotate_core.verdicts.comparison.estimates`.
        ax: where to.
        value: the column to draw.
        rotation: that of the same figure for matched rotations.
        label: of the value's axis.
    """
    turned = table[table.what == NEURONS].assign(**{"what": ROTATIONS, value: table[rotation]})
    sns.stripplot(
        pd.concat([table, turned]), x=value, y="layer", order=list(means.layer), hue="what",
        hue_order=list(ROW_COLOURS), palette=ROW_COLOURS, dodge=True, orient="h", ax=ax, size=3,
        alpha=0.4, legend=False,
    )  # fmt: skip
    _intervals(means, ax, shift=0.27, line="black")
    ax.set_yticks(range(len(means)), [f"layer {layer}" for layer in means.layer])
    ax.set(xlabel=label, ylabel="")
    return ax


def compared(
    table: pd.DataFrame, axes: Sequence[Axes], *, by: Sequence[str], label: str
) -> Sequence[Axes]:
    """Neurons beside their nulls, one row per group; in a second panel, what they have more.

    Args:
        table: from :func:`rotate_core.verdicts.comparison.estimates`.
        axes: one, or two for what the neurons have more than their null, with a line at nothing.
        by: columns that name a row.
        label: of the figure.
    """
    if not len(table):
        for ax in axes:
            nothing_to_draw(ax, "Nothing could be measured.")
        return axes
    names = [
        ", ".join(f"layer {row[name]}" if name == "layer" else str(row[name]) for name in by)
        for row in table.to_dict("records")
    ]
    _intervals(table, axes[0], shift=0.25)
    axes[0].set_xlabel(label)
    less, null = ("difference", MATCHED)
    if "less rotations" in table:
        less, null = ("less rotations", ROTATIONS)
    for ax in axes[1:]:
        whiskers(ax, range(len(table)), list(table[less]), color=COLOURS["neuron"], label="")
        ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
        ax.set_xlabel(f"{label}, less that of {null}")
    for ax in axes:
        ax.set_yticks(range(len(table)), names)
        ax.set_ylim(len(table) - 0.5, -0.5)
    return axes


def _intervals(means: pd.DataFrame, ax: Axes, *, shift: float, line: str | None = None) -> None:
    """Means with their intervals, row i of the table around y = i, and a legend above."""
    there = [what for what in ROW_COLOURS if what in means]
    for offset, what in zip(np.linspace(-shift, shift, len(there)), there, strict=True):
        y, estimates, colour = np.arange(len(means)) + offset, list(means[what]), ROW_COLOURS[what]
        low, high = [e.low for e in estimates], [e.high for e in estimates]
        ax.hlines(y, low, high, color=line or colour, linewidth=2.5)
        ax.plot(
            [e.value for e in estimates], y, ROW_MARKERS[what], color=colour, markersize=6,
            markeredgecolor="black" if line else colour, zorder=4, label=what,
        )  # fmt: skip
    legend_above(ax, ncols=3)


def text_before_and_after(
    text: Snippet, axes: Sequence[Axes], *, titles: tuple[str, str], width: int = 40
) -> Sequence[Axes]:
    """The same text twice, each token on a ground as dark as the neuron's activation there.

    Lines are short, so that letters stay as large as the text around the figure on a phone.

    Args:
        text: with and without a channel.
        axes: two, drawn as pages of text.
        titles: of the two.
        width: characters in a line.
    """
    scale = max(1e-12, float(np.max(np.abs([*text.before, *text.after]))))
    positions = _positions(text.words, width)
    for ax, values, title in zip(axes, (text.before, text.after), titles, strict=True):
        for token, value, (line, column) in zip(text.words, values, positions, strict=True):
            word, share = token.lstrip(" "), abs(value) / scale
            if share > 0.02:
                colour = COLOURS["positive" if value >= 0 else "negative"]
                ax.barh(line, len(word), 0.86, column, color=colour, alpha=share, linewidth=0)
            ax.text(
                column, line, word, family="monospace", fontsize=14, va="center", ha="left",
                color="white" if share > 0.55 else "black", parse_math=False,
            )  # fmt: skip
        ax.set(xlim=(0, width), ylim=(positions[-1][0] + 0.6, -0.6))
        ax.set_title(title, fontsize=14, parse_math=False)
        ax.axis("off")
    return axes


def _positions(tokens: Sequence[str], width: int) -> list[tuple[int, int]]:
    """(line, column) of each token's first letter; lines break between words, where they can."""
    words: list[list[str]] = []
    for token in tokens:
        if token.startswith(" ") or not words:
            words.append([])
        words[-1].append(token.lstrip(" "))
    positions, line, column = [], 0, 0
    for word in words:
        if column and column + 1 + sum(map(len, word)) > width:
            line, column = line + 1, 0
        column += bool(column)  # the space
        for part in word:
            if column and column + len(part) > width:  # a word longer than what is left of a line
                line, column = line + 1, 0
            positions.append((line, column))
            column += len(part)
    return positions


def no_longer_promoted(
    tokens: Sequence[str], drops: Sequence[float], own: Sequence[bool], ax: Axes
) -> Axes:
    """Horizontal bars, one per token, the largest drop on top; the channel's own in colour.

    Args:
        tokens: as they are to be read.
        drops: of their logits.
        own: whether each is in the channel's tail.
        ax: where to.
    """
    colours = [COLOURS["neuron"] if mine else COLOURS["null"] for mine in own]
    ax.barh(range(len(tokens)), drops, color=colours)
    ax.set_yticks(range(len(tokens)), tokens, family="monospace", fontsize=14, parse_math=False)
    ax.invert_yaxis()
    for name, label in (("neuron", "in the channel's tail"), ("null", "another token")):
        ax.barh([0], [0], color=COLOURS[name], label=label)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.2, 1.0), ncols=2, fontsize=13)
    ax.set_xlabel("drop of the logit", fontsize=14)
    ax.tick_params(axis="x", labelsize=13)
    return ax
