"""The method with one setting changed at a time, on neurons and matched vectors (chapter 7)."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels, VocabularyLike
from rotate_core.decomposition import decompose
from rotate_core.experiments.reconstruction import SAME_COSINE, SAME_JACCARD, n_distinct
from rotate_core.null.evidence import support
from rotate_core.rotation.settings import Settings
from rotate_core.verdicts.comparison import MATCHED, NEURONS
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
COSINES, JACCARDS = (0.9, SAME_COSINE, 0.98), (0.4, SAME_JACCARD, 0.6)
"""Above either, two channels count as one: ours in the middle, and two more for comparison."""


def measures(channels: Channels) -> dict[str, list[float]]:
    """Figures of each neuron's channels: lists of one value per neuron.

    Kurtosis is the median over a neuron's channels, cosine and support are means; ``distinct 0.9
    0.4`` and so on are the share of distinct channels at those thresholds, ``distinct`` at ours.
    """
    values = {
        "kurtosis": channels.kurtosis.median(1).values,
        "cosine": channels.cosine.mean(1),
        "distinct": n_distinct(channels) / channels.n_channels,
        "support": support(channels).mean(1),
    }
    for cosine, index in itertools.product(COSINES, JACCARDS):
        n = n_distinct(channels, cosine=cosine, jaccard_index=index)
        values[f"distinct {cosine} {index}"] = n / channels.n_channels
    return {name: value.double().tolist() for name, value in values.items()}


def compare(
    vectors: Float[Tensor, "n_neurons d_model"],
    null: Float[Tensor, "n_null d_model"],
    vocabulary: VocabularyLike,
    *,
    settings: Settings | None = None,
    n_channels: int,
    seed: int = 0,
    device: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decompose the same vectors under each of :data:`CHANGES`, with the null in the same batch.

    Args:
        vectors: of neurons.
        null: matched vectors.
        vocabulary: U.
        settings: None for ours.
        n_channels: of each vector.
        seed: of random starts.
        device: where to compute; None is the CPU.

    Returns:
        One row per change and vector: change, what, row and :func:`measures`. And one row per
        change and position: seconds for one more channel per vector of the batch.
    """
    import pandas as pd

    batch = torch.cat([vectors, null])
    options: Any = {"settings": settings, "device": device, "progress": False}
    labels = {"what": [NEURONS] * len(vectors) + [MATCHED] * len(null)}
    labels["row"] = [*range(len(vectors)), *range(len(null))]
    for moments in ("weighted", "scaled"):  # each has a curvature, paid once per vocabulary
        decompose(batch[:1], vocabulary, n_channels=1, moments=moments, **options)
    tables, clocks = [], []
    for name, change in CHANGES.items():
        ticks = [(time.perf_counter(), 0)]

        def note(n: int, ticks: list[tuple[float, int]] = ticks) -> None:
            ticks.append((time.perf_counter(), n))

        channels = decompose(
            batch,
            vocabulary,
            n_channels=n_channels,
            seed=seed,
            on_channel=note,
            **options,
            **change,
        )
        tables.append(pd.DataFrame(labels | measures(channels)).assign(change=name))
        at, n_found = zip(*ticks, strict=True)  # when the whole batch's worth was found, once more
        whole = np.searchsorted(np.cumsum(n_found), len(batch) * np.arange(n_channels + 1))
        seconds = np.diff(np.asarray(at)[whole])
        clock = pd.DataFrame({"seconds": seconds}).assign(change=name)
        clocks.append(clock.rename_axis("position").reset_index())
    return pd.concat(tables, ignore_index=True), pd.concat(clocks, ignore_index=True)


def times_ours(clock: pd.DataFrame, *, seed: int = 0) -> pd.Series:
    """Seconds of each change over seconds of the first one, channel by channel, with intervals.

    Args:
        clock: from :func:`compare`, with a column layer.
        seed: of the bootstrap, over layers and channels.

    Returns:
        An `Estimate` per change.
    """
    wide = clock.pivot(index=["layer", "position"], columns="change", values="seconds")
    changes = clock.change.unique()
    ratios = wide[changes].div(wide[changes[0]], axis=0)
    return ratios.apply(interval, seed=seed).rename("times the seconds")
