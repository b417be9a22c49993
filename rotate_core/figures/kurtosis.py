"""Figures of chapter 5: kurtosis over depth, one panel per kind and a row of them per side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from rotate_core.figures.experiments import band
from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def kurtosis_tails(table: pd.DataFrame) -> list[Axes]:
    """Share of the vectors above each kurtosis, neurons and matched vectors, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.shares_above`.
    """
    panels = _panels(table)
    for ax, kind, part in panels:
        shown = part[part.share > 0]  # a logarithm has no 0
        _neurons_beside_null(ax, kind, shown, "kurtosis", "share", marker="")
        ax.set(xlabel="excess kurtosis", yscale="log")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_xlim(-0.5, None)
    return _finished(panels, "share above")


def kurtosis_by_depth(table: pd.DataFrame) -> list[Axes]:
    """Median kurtosis against layer, neurons and matched vectors, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.medians`.
    """
    panels = _panels(table)
    for ax, kind, part in panels:
        _neurons_beside_null(ax, kind, part, "layer", "median")
        ax.set_xlabel("layer")
        ax.axhline(0, color=COLOURS["neutral"], linewidth=0.5)
    return _finished(panels, "median kurtosis")


def shares_by_layer(table: pd.DataFrame) -> list[Axes]:
    """Share above the null against layer with its 95% band, and what chance gives.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.share_above_null`.
    """
    panels = _panels(table)
    for ax, kind, part in panels:
        ax.plot(part.layer, part.chance, color=COLOURS["null"], linewidth=2, label="chance")
        band(ax, part.layer, part.share, part.low, part.high, color=COLOURS[kind], label="neurons")
        ax.set_xlabel("layer")
    for ax, _, _ in panels:  # after all have drawn, for they share the axis
        ax.set_ylim(0, None)
    return _finished(panels, "share of sharp neurons")


def _panels(table: pd.DataFrame) -> list[tuple[Axes, str, pd.DataFrame]]:
    """Axes, kind and rows of each side and kind."""
    n_sides, n_kinds = table.side.nunique(), table.kind.nunique()
    size = (6.6, 0.6 + 2.6 * n_sides)
    _, axes = plt.subplots(n_sides, n_kinds, figsize=size, sharey=True, squeeze=False)
    panels = []
    groups = table.groupby(["side", "kind"], sort=False)
    for ax, ((side, kind), part) in zip(axes.flat, groups, strict=True):
        ax.set_title(kind if n_sides == 1 else f"{kind}, {side}")
        panels.append((ax, kind, part))
    return panels


def _neurons_beside_null(
    ax: Axes, kind: str, part: pd.DataFrame, x: str, y: str, marker: str = "o"
) -> None:
    looks = (True, COLOURS["null"], "matched vectors"), (False, COLOURS[kind], "neurons")
    for null, colour, label in looks:
        rows = part[part.null == null]
        band(ax, rows[x], rows[y], rows.low, rows.high, color=colour, label=label, marker=marker)


def _finished(panels: list[tuple[Axes, str, pd.DataFrame]], label: str) -> list[Axes]:
    """One legend above all panels."""
    axes = [ax for ax, _, _ in panels]
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return axes
