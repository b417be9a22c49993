"""The first channel by our solver, and by the paper's with one and more reflections (chapter 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rotate_core.experiments.solver import Timed
from rotate_core.null.evidence import support
from rotate_core.verdicts.comparison import group_means

if TYPE_CHECKING:
    import pandas as pd


def by_neuron(runs: Mapping[str, Timed]) -> pd.DataFrame:
    """What several solvers found on the same neurons.

    Args:
        runs: of each solver, by its name.

    Returns:
        One row per solver and neuron: solver, reflections (0 for ours), cluster, objective,
        kurtosis, cosine, support, converged, seconds (of the whole batch, over its neurons).
    """
    import pandas as pd

    parts = []
    for name, run in runs.items():
        channels, settings = run.channels, run.channels.settings
        figures = ("objective", "kurtosis", "cosine", "converged")
        columns = {figure: getattr(channels, figure)[:, 0] for figure in figures}
        columns |= {"support": support(channels)[:, 0], "cluster": channels.indices}
        labels = {
            "solver": name,
            "reflections": settings.n_reflections if settings.solver == "householder" else 0,
            "seconds": run.seconds / channels.n_neurons,
        }
        parts.append(pd.DataFrame(columns).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def by_solver(solved: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The mean of each figure with its interval over neurons, one row per solver.

    Args:
        solved: from :func:`by_neuron`.
        seed: of the bootstrap.
    """
    figures = ["objective", "kurtosis", "cosine", "support"]
    others = solved.groupby("solver", sort=False)[["converged", "seconds"]].mean()
    return group_means(solved, ["solver"], figures, seed=seed).assign(
        converged=others.converged.map("{:.0%}".format), seconds=others.seconds.round(2)
    )
