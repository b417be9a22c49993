"""Figures of one neuron's channels: projections, the solver's steps, tail tokens, the null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch

from rotate_core.figures.style import COLOURS
from rotate_core.models.tokens import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

LONGEST_TOKEN = 20
"""Characters of a token that a figure has room for."""


def drawable(token: str) -> str:
    """A token for a figure: made visible, characters that the font lacks by number, not too long.

    Args:
        token: as the tokenizer decodes it.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    shown = visible(token).replace("␍", "\\r")
    shown = "".join(c if ord(c) in known else f"<U+{ord(c):04X}>" for c in shown)
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
    """How many tokens have which z-score, over the normal curve; tails beyond the threshold shaded.

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
    counts, _ = np.histogram(z, bins)
    middles = bins[:-1] + width / 2
    tail = np.abs(middles) > threshold
    for chosen, colour in ((~tail, COLOURS["null"]), (tail, COLOURS["neuron"])):
        ax.bar(middles[chosen], counts[chosen], width, color=colour, linewidth=0)
    normal = len(z) * width * np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(middles, normal, color=COLOURS["neutral"], linewidth=1, linestyle="--")
    ax.set(title=title, xlabel="z-score", xlim=(low, high), yscale="log", ylim=(0.5, 3 * len(z)))
    ax.set_ylabel("tokens")
    for x, align, words in ((0.02, "left", names[0]), (0.98, "right", names[1])):
        ax.text(
            x, 0.97, "\n".join(map(drawable, words)), ha=align, va="top", fontsize=11,
            transform=ax.transAxes, parse_math=False,
        )  # fmt: skip
    return ax


def steps(points: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Objective, kurtosis and cosine of one neuron against the iteration, one below another.

    Args:
        points: rows with objective, kurtosis and cosine, from the start on.
        axes: three.
    """
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
    """Tokens of each channel's tail with their z-scores as bars, one panel per channel.

    Args:
        tops: of each channel, pairs of a token and its z-score, the furthest first.
        axes: as many at least; the rest is left empty.
    """
    furthest = max(abs(z) for top in tops for _, z in top)
    for i, (ax, top) in enumerate(zip(axes, tops, strict=False)):
        tokens, z = zip(*top, strict=True)
        colours = [COLOURS["positive" if value > 0 else "negative"] for value in z]
        rows = np.arange(len(z))
        ax.barh(rows, np.abs(z), color=colours)
        ax.set_yticks(rows, [drawable(t) for t in tokens], fontsize=11, parse_math=False)
        ax.invert_yaxis()
        ax.set(title=f"channel {i}", xlim=(0, 1.05 * furthest))
        ax.tick_params(axis="y", length=0)
    for ax in axes[len(tops) :]:
        ax.set_axis_off()
    sides = {"positive": "above the mean", "negative": "below the mean"}
    axes[min(len(tops), len(axes) - 1)].legend(
        handles=[Patch(color=COLOURS[side], label=label) for side, label in sides.items()],
        loc="upper left" if len(axes) > len(tops) else "lower right",
    )
    return axes


def heat(
    values: ArrayLike,
    ax: Axes,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str] = ("", ""),
    form: str = ".1f",
    **options: Any,
) -> Axes:
    """A small matrix as a heat map with its numbers in it.

    Args:
        values: (rows, columns).
        ax: where to.
        rows: a name each.
        columns: a name each.
        labels: of the horizontal and the vertical axis.
        form: of the numbers.
        options: of ``seaborn.heatmap``.
    """
    sns.heatmap(
        np.asarray(values), ax=ax, annot=True, fmt=form, cmap="vlag", center=0, linewidths=1,
        xticklabels=list(columns), yticklabels=list(rows), annot_kws={"fontsize": 11}, cbar=False,
        **options,
    )  # fmt: skip
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.tick_params(length=0, labelrotation=0)
    return ax


def over_the_null(
    channels: Mapping[str, ArrayLike], null: Mapping[str, ArrayLike], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Statistics of each channel (colour) among the channels of matched vectors (grey dots).

    Args:
        channels: by the statistic's name, a value a channel.
        null: the same, (n_vectors, n_channels).
        axes: one a statistic.
    """
    for ax, (name, values) in zip(axes, channels.items(), strict=True):
        dots = np.asarray(null[name])
        x = np.arange(dots.shape[1])
        spread = np.linspace(-0.25, 0.25, len(dots))[:, None]
        ax.scatter(
            (x + spread).ravel(), dots.ravel(), s=14, color=COLOURS["null"], linewidth=0,
            label="matched vectors",
        )  # fmt: skip
        ax.scatter(
            x, np.asarray(values), s=80, marker="D", color=COLOURS["neuron"], edgecolor="white",
            label="the neuron", zorder=3,
        )  # fmt: skip
        ax.set(title=name, xlabel="channel", xticks=x)
        ax.set_ylim(0, 1.35 * max(dots.max(), np.asarray(values).max()))
    axes[-1].legend(loc="upper right", handletextpad=0.2)
    return axes
