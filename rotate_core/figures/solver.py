"""Figures of the solver: one geodesic, two races, and what the last iterations buy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rotate_core.figures.style import COLOURS


def geodesic_profile(profile: pd.DataFrame, chosen: tuple[float, float], ax: Axes) -> Axes:
    """F along one geodesic and the point that the line search chose.

    Args:
        profile: columns t (radians) and objective, evaluated point by point.
        chosen: t and F of the line search.
        ax: to draw on.
    """
    ax.plot(profile.t, profile.objective, color=COLOURS["neutral"])
    ax.plot(*chosen, "o", color=COLOURS["geodesic"], markersize=9, label="line search")
    ax.set(xlabel="angle t (radians)", ylabel="objective F", xlim=(0, np.pi / 2))
    ax.legend(loc="lower left")
    return ax


def race(curves: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Mean objective against seconds, one line per solver, on a logarithmic clock.

    Args:
        curves: by solver; columns seconds and objective.
        ax: to draw on.
    """
    for solver, curve in curves.items():
        ax.plot(curve.seconds, curve.objective, color=COLOURS[solver], label=solver, linewidth=2)
    ax.set(xscale="log", xlabel="seconds", ylabel="mean objective F")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small")
    return ax


def agreement(table: pd.DataFrame, ax: Axes) -> Axes:
    """Cosine between the two solvers' channels against the geodesic solver's gain in F.

    Args:
        table: one row per neuron; columns cosine and gain.
        ax: to draw on.
    """
    ax.axhline(0, color=COLOURS["null"], linewidth=1)
    sns.scatterplot(data=table, x="cosine", y="gain", ax=ax, color=COLOURS["geodesic"], s=60)
    ax.set(xlabel="cosine of the two channels", ylabel="F: geodesic - householder", xlim=(0, 1.05))
    return ax


def remaining(left: ArrayLike, rules: Mapping[str, float], ax: Axes) -> Axes:
    """What each iteration leaves to gain, one line per neuron, and where rules stop on average.

    Args:
        left: objective still to gain (neurons, iterations); 0 once a neuron has ended.
        rules: iterations that a neuron takes on average, by the rule's name.
        ax: to draw on.
    """
    values = np.asarray(left, dtype=float)
    least = 1e-8  # what rounding leaves
    ax.plot(np.where(values > least, values, np.nan).T, color=COLOURS["geodesic"], alpha=0.25, lw=1)
    median = np.median(values, axis=0)
    ax.plot(np.where(median > least, median, np.nan), color=COLOURS["geodesic"], linewidth=3)
    for rule, n_iter in rules.items():
        ax.axvline(n_iter, color=COLOURS["null"], linewidth=1)
        ax.annotate(
            rule,
            (n_iter, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=9,
        )
    ax.set(yscale="log", xlabel="iteration", ylabel="objective left to gain")
    return ax


def distinct(table: pd.DataFrame, ax: Axes) -> Axes:
    """Channels that are not copies of another, by moments, one point per neuron.

    Args:
        table: columns moments and distinct.
        ax: to draw on.
    """
    sns.stripplot(
        data=table,
        y="moments",
        x="distinct",
        hue="moments",
        palette={name: COLOURS[name] for name in ("weighted", "scaled")},
        ax=ax,
        size=8,
        alpha=0.7,
        legend=False,
        jitter=0.25,
        orient="h",
    )
    ax.set(xlabel="distinct channels of a neuron", ylabel="moments")
    ax.set_xlim(0, table.distinct.max() + 0.5)
    return ax
