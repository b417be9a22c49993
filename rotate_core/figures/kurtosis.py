"""Figures of chapter 5: kurtosis over depth, one panel per kind and a row of them per side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotate_core.figures.experiments import band, legend_above
from rotate_core.figures.style import COLOURS, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def kurtosis_tails(table: pd.DataFrame) -> list[Axes]:
    """Share of the vectors above each kurtosis, neurons and matched vectors, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.shares_above`.
    """
    table = table[table.share > 0]  # a logarithm has no 0
    axes = _panels(table, ("kurtosis", "share"), ("excess kurtosis", "share above"), marker="")
    for ax in axes:
        ax.set_yscale("log")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_xlim(-0.5, None)
    return axes


def kurtosis_by_depth(table: pd.DataFrame) -> list[Axes]:
    """Median kurtosis against layer, neurons and matched vectors, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.medians`.
    """
    axes = _panels(table, ("layer", "median"), ("layer", "median kurtosis"))
    for ax in axes:
        ax.axhline(0, color=COLOURS["neutral"], linewidth=0.5)
    return axes


def shares_by_layer(table: pd.DataFrame) -> list[Axes]:
    """Share above the null against layer with its 95% band, and what chance gives.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.share_above_null`.
    """
    axes = _panels(table, ("layer", "share"), ("layer", "sharp neurons"))
    for ax in axes:
        ax.set_ylim(0, None)
    return axes


def _panels(
    table: pd.DataFrame, columns: tuple[str, str], labels: tuple[str, str], marker: str = "o"
) -> list[Axes]:
    """Neurons beside chance, if the table has it, or matched vectors; one legend above all."""
    n_sides, (x, y) = table.side.nunique(), columns
    groups = list(table.groupby(["side", "kind"], sort=False))
    axes = panels(len(groups), height=2.1, sharex=True, sharey=True)
    for ax, ((side, kind), part) in zip(axes, groups, strict=True):
        if "chance" in part:
            ax.plot(part[x], part.chance, color=COLOURS["null"], linewidth=2, label="chance")
        else:
            null, part = part[part.null], part[~part.null]
            look = {"color": COLOURS["matched"], "label": "matched vectors", "marker": marker}
            band(ax, null[x], null[y], null.low, null.high, **look)
        look = {"color": COLOURS["neuron"], "label": "neurons", "marker": marker}
        band(ax, part[x], part[y], part.low, part.high, **look)
        ax.set(title=kind if n_sides == 1 else f"{kind}, {side}", ylabel=labels[1])
    axes[-1].set_xlabel(labels[0])
    legend_above(axes[0], ncols=2)
    return axes
