"""One look for every figure: a colour-blind-safe palette, the same colour for the same thing.

Blue is a neuron's, grey is random (matched vectors darker, rotations lighter), an orange ground is
the paper's figure, hatched is what was not tested. Kinds and methods have the other colours; where
there are none, "other" is what stands beside blue and is no null. A sign is a shape, never a colour
alone.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by readers with any of the common colour deficiencies.
COLOURS = {
    "geodesic": "#0072B2",
    "householder": "#D55E00",
    "weighted": "#0072B2",
    "scaled": "#E69F00",
    "neuron": "#0072B2",
    "null": "#999999",
    "matched": "#6E6E6E",
    "rotation": "#B5B5B5",
    "paper": "#E69F00",
    "positive": "#0072B2",
    "negative": "#D55E00",
    "gate": "#56B4E9",
    "in": "#009E73",
    "out": "#CC79A7",
    "masked": "#E69F00",
    "neutral": "#595959",
    "other": "#009E73",
}
"""A colour for each method, null and kind; figures look colours up here and nowhere else."""


def use_style() -> None:
    """Set the seaborn theme of the book for the figures that follow.

    Figures keep a white ground of their own, so that they read the same on a dark page.
    """
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "font.size": 11,
        },
    )


def panels(n: int, *, height: float = 3.2, width: float = 5.4, **options: Any) -> list[Axes]:
    """Axes one below the other: letters stay as large as the text around them on a phone.

    Args:
        n: how many.
        height: of each, inches.
        width: of the figure, inches; at 5.4 a label is 10 pixels high on a phone.
        options: of ``plt.subplots``.
    """
    _, axes = plt.subplots(n, 1, figsize=(width, n * height), squeeze=False, **options)
    return list(axes[:, 0])


def nothing_to_draw(ax: Axes, why: str) -> Axes:
    """A sentence in place of a figure, where a sample holds nothing that it could show."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", wrap=True, transform=ax.transAxes)
    return ax
