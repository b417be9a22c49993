"""Figures of the solver: a geodesic, two solvers by the clock, when to stop, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rotate_core.experiments.solver import Profile
from rotate_core.figures.style import COLOURS


def geodesic_profile(profile: Profile, ax: Axes) -> Axes:
    """F along one geodesic, evaluated point by point, and the point that the line search chose."""
    curve, chosen = profile.curve, (profile.t, profile.objective)
    ax.plot(curve.t, curve.objective, color=COLOURS["neutral"])
    ax.plot(*chosen, "o", color=COLOURS["geodesic"], markersize=9, label="line search")
    ax.set(xlabel="angle t (radians)", ylabel="objective F", xlim=(0, np.pi / 2))
    ax.legend(loc="lower left")
    return ax


def objective_against_seconds(curves: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Mean objective against seconds (columns), one line per solver, on a logarithmic clock."""
    for solver, curve in curves.items():
        ax.plot(curve.seconds, curve.objective, color=COLOURS[solver], label=solver, linewidth=2)
    ax.set(xscale="log", xlabel="seconds", ylabel="mean objective F")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small")
    return ax


def gain_against_cosine(table: pd.DataFrame, ax: Axes) -> Axes:
    """Our gain in F over the paper's solver against the cosine of the two channels, by neuron."""
    ax.axhline(0, color=COLOURS["null"], linewidth=1)
    sns.scatterplot(data=table, x="cosine", y="gain", ax=ax, color=COLOURS["geodesic"], s=60)
    ax.set(xlabel="cosine of the two channels", ylabel="F: geodesic - householder", xlim=(0, 1.05))
    return ax


def heights_and_cores(ends: Mapping[str, Mapping[str, Sequence[float]]], ax: Axes) -> Axes:
    """F of each neuron's first channel against its core, by how far the search may go."""
    for (name, row), colour in zip(ends.items(), ("geodesic", "null"), strict=True):
        ax.scatter(
            row["core"], row["objective"], color=COLOURS[colour], s=25, alpha=0.7, label=name
        )
    ax.set(xlabel="core: standard deviations in the neuron itself", ylabel="F of its first channel")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax


def optimality_gap(gap: ArrayLike, rules: pd.Series, ax: Axes) -> Axes:
    """F left to gain by iteration (n_neurons, n_iterations), and where rules stop on average."""
    values = np.asarray(gap, dtype=float)
    least = 1e-8  # what rounding leaves
    ax.plot(np.where(values > least, values, np.nan).T, color=COLOURS["geodesic"], alpha=0.25, lw=1)
    median = np.median(values, axis=0)
    ax.plot(np.where(median > least, median, np.nan), color=COLOURS["geodesic"], linewidth=3)
    for row, (rule, n_iter) in enumerate(rules.items()):  # two may stop at the same place
        ax.axvline(n_iter, color=COLOURS["null"], linewidth=1)
        ax.annotate(
            rule, (n_iter, 0.98 - 0.09 * row), xytext=(3, 0), textcoords="offset points",
            va="top", fontsize=9, xycoords=ax.get_xaxis_transform(),
        )  # fmt: skip
    ax.set(yscale="log", xlabel="iteration", ylabel="objective left to gain")
    return ax


def distinct_channels(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Channels of each neuron (row) that are no copies of another, by moments (column)."""
    palette = {name: COLOURS[name] for name in counts}
    sns.stripplot(counts, palette=palette, ax=ax, size=8, alpha=0.7, jitter=0.25, orient="h")
    ax.set(xlabel="distinct channels of a neuron", ylabel="moments")
    ax.set_xlim(0, counts.max(axis=None) + 0.5)
    return ax


def growth(times: Mapping[str, pd.Series], ax: Axes) -> Axes:
    """Time by size, both relative to the smallest, one line per dimension that grows."""
    colours = {"n_neurons": "geodesic", "d_vocab": "householder", "n_channels": "in"}
    for name, line in times.items():
        ax.plot(line.index, line, "o-", color=COLOURS[colours[name]], label=name)
    ax.plot([1, 16], [1, 16], color=COLOURS["null"], linestyle="--", label="linear")
    ax.set(xscale="log", yscale="log", xlabel="size, smallest = 1", ylabel="seconds, smallest = 1")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    ax.minorticks_off()
    ax.legend()
    return ax
