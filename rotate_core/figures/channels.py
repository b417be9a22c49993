"""Figures of one neuron's channels: projections, the solver's steps, tail tokens, the null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.font_manager import FontProperties, findfont, get_font

from rotate_core.figures.style import COLOURS
from rotate_core.models.tokens import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

LONGEST_TOKEN = 20
"""Characters of a token that a figure has room for."""


def drawable(token: str) -> str:
    """A token as a figure shows it: visible, cut short, by number what the font lacks."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    shown = visible(token).replace("␍", "\\r")
    shown = "".join(c if ord(c) in glyphs else f"<U+{ord(c):04X}>" for c in shown)
    return shown if len(shown) <= LONGEST_TOKEN else shown[: LONGEST_TOKEN - 1] + "…"


def projection(
    z: ArrayLike,
    ax: Axes,
    *,
    threshold: float,
    names: Sequence[Sequence[str]] = ((), ()),
    limits: tuple[float, float] | None = None,
    title: str = "",
) -> Axes:
    """Number of tokens by z-score, over the normal curve; tails beyond the threshold in colour.

    Args:
        z: z-scores of all tokens.
        ax: where to.
        threshold: z-score at which a tail begins.
        names: tokens to write over the low end and over the high end, the furthest first.
        limits: of the axis; None fits the z-scores.
        title: of the panel.
    """
    z = np.asarray(z)
    low, high = limits or (min(z.min(), -threshold) - 1.5, max(z.max(), threshold) + 1.5)
    width = 0.5
    bins = np.arange(np.floor(low), np.ceil(high) + width, width)
    middles = bins[:-1] + width / 2
    colours = np.where(np.abs(middles) > threshold, COLOURS["neuron"], COLOURS["null"])
    ax.bar(middles, np.histogram(z, bins)[0], width, color=colours, linewidth=0)
    normal = len(z) * width * np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(middles, normal, color=COLOURS["neutral"], linewidth=1, linestyle="--")
    ax.set(title=title, xlabel="z-score", ylabel="tokens", xlim=(low, high))
    ax.set(yscale="log", ylim=(0.5, 3 * len(z)))
    for x, align, words in ((0.02, "left", names[0]), (0.98, "right", names[1])):
        ax.text(
            x, 0.97, "\n".join(map(drawable, words)), ha=align, va="top", fontsize=11,
            transform=ax.transAxes, parse_math=False,
        )  # fmt: skip
    return ax


def steps(points: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Objective, kurtosis and cosine (columns) against the iteration, a panel each."""
    for ax, column in zip(axes, ("objective", "kurtosis", "cosine"), strict=True):
        colour = COLOURS["neuron"] if column == "objective" else COLOURS["neutral"]
        ax.plot(points.index, points[column], color=colour, marker="o", markersize=4)
        ax.set_ylabel(column)
        ax.margins(y=0.15)
    axes[-1].set_xlabel("iteration")
    return axes


def tail_tokens(
    tops: Sequence[Sequence[tuple[str, float]]], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """The :meth:`Channels.top_tokens` of each channel as bars, a panel per channel.

    The side of the mean that a token is on is told by the bar's direction, as in a histogram.
    """
    furthest = max(abs(z) for top in tops for _, z in top)
    for i, (ax, top) in enumerate(zip(axes, tops, strict=True)):
        tokens, z = zip(*top, strict=True)
        rows = np.arange(len(z))
        ax.barh(rows, z, color=COLOURS["neuron"])
        ax.set_yticks(rows, [drawable(t) for t in tokens], fontsize=11, parse_math=False)
        ax.invert_yaxis()
        ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
        ax.set(title=f"channel {i}", xlim=(-1.05 * furthest, 1.05 * furthest))
        ax.set_xlabel("z-score" if i == len(tops) - 1 else "")
        ax.tick_params(axis="y", length=0)
    return axes


def heat(table: pd.DataFrame, ax: Axes, *, form: str = ".1f", **options: Any) -> Axes:
    """A small table as a heat map with its numbers in it; options as of ``seaborn.heatmap``."""
    sns.heatmap(
        table, ax=ax, annot=True, fmt=form, cmap="vlag", center=0, linewidths=1, cbar=False,
        annot_kws={"fontsize": 11}, **options,
    )  # fmt: skip
    ax.tick_params(length=0, labelrotation=0)
    return ax


def over_the_null(
    channels: Mapping[str, ArrayLike], null: Mapping[str, ArrayLike], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Statistics of a neuron's channels (n_channels) among the null's (n_vectors, n_channels)."""
    for ax, (name, values) in zip(axes, channels.items(), strict=True):
        dots, own = np.asarray(null[name]), np.asarray(values)
        x = np.arange(dots.shape[1])
        spread = (x + np.linspace(-0.25, 0.25, len(dots))[:, None]).ravel()
        grey, blue = COLOURS["null"], COLOURS["neuron"]
        ax.scatter(spread, dots.ravel(), s=14, c=grey, linewidth=0, label="matched vectors")
        ax.scatter(x, own, s=80, c=blue, marker="D", ec="white", zorder=3, label="the neuron")
        most = max(dots.max(), own.max()) or 1  # all are 0 where no channel has a tail
        ax.set(title=name, xlabel="channel", xticks=x, ylim=(0, 1.35 * most))
    axes[-1].legend(loc="upper right", handletextpad=0.2)
    return axes
