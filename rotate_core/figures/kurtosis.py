"""Figures of chapter 5: kurtosis over depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def kurtosis_tails(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share of the vectors above each kurtosis, neurons and null, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.shares_above`.
        axes: one a side and kind, a row of kinds a side.
    """
    for ax, ((side, kind), part) in zip(axes, _by_side_and_kind(table), strict=True):
        for null, colour, label in _beside(kind):
            some = part[(part.null == null) & (part.share > 0)]  # a logarithm has no 0
            ax.fill_between(some["kurtosis"], some.low, some.high, color=colour, alpha=0.25, lw=0)
            ax.plot(some["kurtosis"], some.share, color=colour, label=label)
        ax.set(title=_title(table, side, kind), xlabel="excess kurtosis", yscale="log")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_xlim(-0.5, None)
    axes[0].set_ylabel("share above")
    return _finish(axes)


def kurtosis_by_depth(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Median kurtosis against layer, neurons and null, with 95% bands.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.medians`.
        axes: one a side and kind, a row of kinds a side.
    """
    for ax, ((side, kind), part) in zip(axes, _by_side_and_kind(table), strict=True):
        for null, colour, label in _beside(kind):
            some = part[part.null == null]
            ax.fill_between(some.layer, some.low, some.high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(some.layer, some["median"], color=colour, label=label, marker="o", markersize=3)
        ax.set(title=_title(table, side, kind), xlabel="layer")
        ax.axhline(0, color=COLOURS["neutral"], linewidth=0.5)
    axes[0].set_ylabel("median kurtosis")
    return _finish(axes)


def shares_by_layer(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Share above the null against layer with its 95% band, and what chance gives.

    Args:
        table: from :func:`rotate_core.experiments.kurtosis_by_depth.share_above_null`.
        axes: one a side and kind, a row of kinds a side.
    """
    for ax, ((side, kind), part) in zip(axes, _by_side_and_kind(table), strict=True):
        colour = COLOURS[kind]
        ax.plot(part.layer, part.chance, color=COLOURS["null"], linewidth=2, label="chance")
        ax.fill_between(part.layer, part.low, part.high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(part.layer, part.share, color=colour, marker="o", markersize=3, label="neurons")
        ax.set(title=_title(table, side, kind), xlabel="layer")
    for ax in axes:  # after all have drawn, for they may share the axis
        ax.set_ylim(0, None)
    axes[0].set_ylabel("share of sharp neurons")
    return _finish(axes)


def _by_side_and_kind(table: pd.DataFrame) -> Any:
    return table.groupby(["side", "kind"], sort=False)


def _beside(kind: str) -> tuple[tuple[bool, str, str], ...]:
    return (True, COLOURS["null"], "matched vectors"), (False, COLOURS[kind], "neurons")


def _title(table: pd.DataFrame, side: str, kind: str) -> str:
    return kind if table.side.nunique() == 1 else f"{kind}, {side}"


def _finish(axes: Sequence[Axes]) -> Sequence[Axes]:
    """One legend above all panels."""
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return axes
