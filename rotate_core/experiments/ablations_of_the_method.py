"""The method with one choice changed at a time, on neurons and on matched vectors (chapter 7)."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels, VocabularyLike
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.experiments.reconstruction import SAME_COSINE, SAME_JACCARD, n_distinct
from rotate_core.null.evidence import support
from rotate_core.rotation.settings import Settings
from rotate_core.verdicts.intervals import interval

if TYPE_CHECKING:
    import pandas as pd

OURS = "ours"
CHANGES: dict[str, dict[str, Any]] = {
    OURS: {},
    "subtract by the authors' grid": {"deflation": "subtract-grid"},
    "subtract by projection": {"deflation": "subtract"},
    "scaled moments": {"moments": "scaled"},
    "half the lambda": {"lambda_kurtosis": 0.15},
    "twice the lambda": {"lambda_kurtosis": 0.6},
    "threshold 3": {"threshold": 3.0},
    "threshold 6": {"threshold": 6.0},
    "random start": {"start": "reflection"},
    "best of three starts": {"restarts": 3},
}
"""What is changed, by name. The paper masks, with scaled moments and from a random start."""
NEURONS, MATCHED = "neurons", "matched vectors"
COSINES, JACCARDS = (0.9, SAME_COSINE, 0.98), (0.4, SAME_JACCARD, 0.6)
"""Above either, two channels count as one: ours in the middle, and two more for comparison."""


def measures(channels: Channels) -> dict[str, list[float]]:
    """What the channels of each neuron are like: a value a neuron.

    Kurtosis is the median over a neuron's channels, cosine and support are means. ``distinct 0.9
    0.4`` and so on are the share of distinct channels at other thresholds.
    """
    values = {
        "kurtosis": channels.kurtosis.median(1).values,
        "cosine": channels.cosine.mean(1),
        "distinct": n_distinct(channels) / channels.n_channels,
        "support": support(channels).mean(1),
    }
    for cosine in COSINES:
        for index in JACCARDS:
            n = n_distinct(channels, cosine=cosine, jaccard_index=index)
            values[f"distinct {cosine} {index}"] = n / channels.n_channels
    return {name: value.double().tolist() for name, value in values.items()}


def compare(
    vectors: Float[Tensor, "n_neurons d_model"],
    null: Float[Tensor, "n_null d_model"],
    vocabulary: VocabularyLike,
    *,
    changes: Mapping[str, Mapping[str, Any]] = CHANGES,
    settings: Settings | None = None,
    n_channels: int,
    seed: int = 0,
    device: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decompose the same vectors under each change; neurons and matched vectors in one batch.

    Args:
        vectors: of neurons.
        null: matched vectors.
        vocabulary: U.
        changes: overrides of the settings, by name; the first is what the others change.
        settings: None for ours.
        n_channels: of each vector.
        seed: of random starts.
        device: where to compute; None is the CPU.

    Returns:
        One row per change and vector (change, what, row, and :func:`measures`); and one per
        change and channel with the seconds that the whole batch took for it.
    """
    import pandas as pd

    both = torch.cat([vectors, null])
    labels = {"what": [NEURONS] * len(vectors) + [MATCHED] * len(null)}
    labels["row"] = [*range(len(vectors)), *range(len(null))]
    for moments in ("weighted", "scaled"):  # each has a preconditioner, paid once a vocabulary
        decompose(
            both[:1], vocabulary, n_channels=1, settings=settings, moments=moments, device=device
        )
    tables, clocks = [], []
    for name, change in changes.items():
        ticks = [time.perf_counter()]

        def tick(ticks: list[float] = ticks) -> None:
            ticks.append(time.perf_counter())

        channels = decompose(
            both,
            vocabulary,
            n_channels=n_channels,
            settings=settings,
            seed=seed,
            device=device,
            progress=False,
            on_channel=tick,
            **change,
        )
        tables.append(pd.DataFrame(labels | measures(channels)).assign(change=name))
        seconds = [b - a for a, b in itertools.pairwise(ticks)]
        clocks.append(pd.DataFrame({"seconds": seconds, "position": range(len(seconds))}))
        clocks[-1]["change"] = name
    return pd.concat(tables, ignore_index=True), pd.concat(clocks, ignore_index=True)


def summary(table: pd.DataFrame, columns: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """The mean of each figure with its interval over neurons, one row per change and what.

    Args:
        table: from :func:`compare`, with a column cluster.
        columns: the figures.
        seed: of the bootstrap.
    """
    import pandas as pd

    rows = []
    for (change, what), part in table.groupby(["change", "what"], sort=False):
        estimates = {name: interval(part[name], part.cluster, seed=seed) for name in columns}
        rows.append({"change": change, "what": what} | estimates)
    return pd.DataFrame(rows)


def times_ours(clock: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Seconds of each change over seconds of the first one, channel by channel, with intervals.

    Args:
        clock: from :func:`compare`, with a column layer.
        seed: of the bootstrap, over layers and channels.
    """
    import pandas as pd

    wide = clock.pivot(index=["layer", "position"], columns="change", values="seconds")
    first = wide[clock.change.iloc[0]]
    rows = [(name, interval(wide[name] / first, seed=seed)) for name in clock.change.unique()]
    return pd.DataFrame(rows, columns=["change", "times the seconds"])


def reflections(
    neurons: Any,
    vocabulary: VocabularyLike,
    counts: Sequence[int],
    *,
    max_iter: int,
    settings: Settings | None = None,
    seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:
    """The first channel by the paper's solver with some numbers of reflections, and by ours.

    All with the paper's scaled moments.

    Args:
        neurons: with their numbers.
        vocabulary: U.
        counts: numbers of reflections.
        max_iter: steps of AdamW at most; the paper takes up to 10,000.
        settings: None for ours; moments and solver are set here.
        seed: of the starts.
        device: where to compute; None is the CPU.

    Returns:
        One row per solver and neuron: solver, reflections (0 for ours), cluster, objective,
        kurtosis, cosine, support, converged, seconds (of the whole batch, over its neurons).
    """
    import pandas as pd

    runs: list[tuple[str, int, dict[str, Any]]] = [("geodesic", 0, {})]
    for n in counts:
        steps = {"solver": "householder", "n_reflections": n, "max_iter": max_iter}
        runs.append((f"AdamW, {n} reflection{'s' if n > 1 else ''}", n, steps))
    parts = []
    for name, n, change in runs:
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is in the table
            channels = decompose(
                neurons, vocabulary, n_channels=1, settings=settings, moments="scaled",
                seed=seed, device=device, **change,
            )  # fmt: skip
        seconds = (time.perf_counter() - begun) / channels.n_neurons
        values = {
            "objective": channels.objective[:, 0].tolist(),
            "kurtosis": channels.kurtosis[:, 0].tolist(),
            "cosine": channels.cosine[:, 0].tolist(),
            "support": support(channels)[:, 0].tolist(),
            "converged": channels.converged[:, 0].tolist(),
        }
        labels = {"solver": name, "reflections": n, "seconds": seconds}
        parts.append(pd.DataFrame({"cluster": channels.indices} | values).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def solver_table(solved: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The mean of each figure with its interval over neurons, one row per solver.

    Args:
        solved: from :func:`reflections`.
        seed: of the bootstrap.
    """
    import pandas as pd

    rows = {}
    for name, part in solved.groupby("solver", sort=False):
        columns = ("objective", "kurtosis", "cosine", "support")
        row: dict[str, Any] = {x: interval(part[x], part.cluster, seed=seed) for x in columns}
        row["converged"] = f"{part.converged.mean():.0%}"
        row["seconds"] = round(float(part.seconds.mean()), 2)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("solver")
