"""Figures of labels: p-values of directions beside those of directions that mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def against_chance(
    ranked: Mapping[str, pd.DataFrame],
    ax: Axes,
    *,
    colours: Mapping[str, str],
    floor: float | None = None,
) -> Axes:
    """Each direction's p-value against the one that chance would give at its rank.

    Directions that mean nothing are on the diagonal, within the band; with a reading, above it.

    Args:
        ranked: :meth:`rotate_core.null.Labels.by_rank` of each dictionary.
        ax: where to.
        colours: of each dictionary, names in :data:`.COLOURS`; "null" is drawn below the others.
        floor: the smallest p-value of a rank, ``1 / (n_null + 1)``: a line; smaller ones are
            extrapolated.
    """
    longest = max(ranked.values(), key=len)
    grey = COLOURS["null"]
    ax.fill_between(longest.chance, longest.low, longest.high, color=grey, alpha=0.25, linewidth=0)
    ax.plot(longest.chance, longest.chance, color=COLOURS["neutral"], linewidth=1, label="chance")
    for name, table in ranked.items():
        colour, below = COLOURS[colours[name]], colours[name] == "null"
        ax.plot(
            table.chance, table.p_value, ".", color=colour, markersize=5, label=name,
            zorder=2 if below else 3,
        )  # fmt: skip
    if floor is not None:
        ax.axhline(floor, color=COLOURS["neutral"], linewidth=0.7, linestyle=":")
        ax.annotate(
            "smaller: extrapolated", (1, floor), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", xytext=(0, 2), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="p-value of that rank, by chance", ylabel="p-value")
    ax.invert_xaxis()
    ax.invert_yaxis()
    ax.legend(loc="upper left")
    return ax
