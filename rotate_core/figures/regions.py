"""Figures of the chapter on regions: tables to Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rotate_core.figures.experiments import band, legend_above, untested, whiskers
from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate

WHAT_COLOURS = (COLOURS["neuron"], COLOURS["null"])
"""Of activations, and of their null."""
PART_COLOURS = {"whole": "neutral", "difference of means": "other", "random": "null"}
"""What is no region's part, by how its name begins; regions' parts are in the data's colour."""


def gains(estimates: pd.Series, ax: Axes, *, log: bool = True) -> Axes:
    """What regions gain over one component, over their number, with 95% intervals.

    Args:
        estimates: an `Estimate` by what and number of regions; activations first, then the null.
        ax: where to.
        log: the number of regions on a scale of doublings.
    """
    names = estimates.index.unique(0)
    for name, colour in zip(names, WHAT_COLOURS, strict=True):
        part = estimates[name]
        value, low, high = zip(*((e.value, e.low, e.high) for e in part), strict=True)
        band(ax, part.index, value, low, high, color=colour, label=name)
    ax.axhline(0, color=COLOURS["neutral"], linewidth=0.7)
    if log:
        ax.set_xscale("log", base=2)
        ax.set_xticks(list(part.index), [str(k) for k in part.index])
    ax.set(xlabel="regions", ylabel="gain, nats per token\nand dimension")
    ax.legend()
    return ax


def atlas_of_regions(table: pd.DataFrame, ax: Axes, *, named: Sequence[int]) -> Axes:
    """Each region by how many different tokens and how many articles it holds.

    Args:
        table: of :func:`rotate_core.experiments.regions.breadth`.
        ax: where to.
        named: regions that are ringed; the widest and the narrowest are labelled too.
    """
    size = 900 * table["n"] / table["n"].sum()
    ax.scatter(
        table["tokens"], table["articles_of_as_many"], s=size, color=COLOURS["null"], alpha=0.35,
        linewidth=0, label="as many tokens of any articles",
    )  # fmt: skip
    ax.scatter(
        table["tokens"], table["articles"], s=size, color=COLOURS["neuron"], alpha=0.7,
        linewidth=0, label="a region",
    )  # fmt: skip
    for _, row in table[table["region"].isin(named)].iterrows():
        ax.annotate(
            row["label"][:26],
            (row["tokens"], row["articles"]),
            xytext=(0, -16),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": COLOURS["neutral"], "linewidth": 0.6},
        )
    ax.set_xscale("log")
    ax.margins(0.14)
    ax.set(xlabel="different tokens (effective number)", ylabel="articles (effective number)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, markerscale=0.6)
    return ax


def swaps(estimates: Mapping[str, Estimate], ax: Axes) -> Axes:
    """The share of answers that each part swaps, with 95% intervals: one row a part."""
    if not estimates:
        return untested(ax, "not tested")
    for row, (name, estimate) in enumerate(estimates.items()):
        kinds = [colour for start, colour in PART_COLOURS.items() if name.startswith(start)]
        colour = COLOURS[kinds[0] if kinds else "neuron"]
        whiskers(ax, [row], [estimate], color=colour, label="_", size=7)
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.set(xlim=(-0.02, 1.02), ylim=(len(estimates) - 0.5, -0.5))
    ax.set_xlabel("share of answers that the part swaps")
    return ax


def readings(table: pd.DataFrame, ax: Axes) -> Axes:
    """R^2 of each planted factor by two readings of the same subspaces, joined by a line."""
    ordered = table.sort_values("mixture", ignore_index=True)
    rows = ordered.index
    ax.hlines(
        rows, ordered["mixture"], ordered["additive"], color=COLOURS["null"], linewidth=1, alpha=0.6
    )
    ax.plot(ordered["mixture"], rows, "o", color=COLOURS["neuron"], label="one region's posterior")
    ax.plot(ordered["additive"], rows, "D", color=COLOURS["other"], label="added up")
    ax.set(xlabel="R² of a planted factor", ylabel="factors", yticks=[], xlim=(None, 1.02))
    legend_above(ax, ncols=2)
    return ax
