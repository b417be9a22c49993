"""Changes of the method on neurons and their null."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from rotate_core import Settings, Vocabulary, decompose
from rotate_core.experiments import ablations_of_the_method as ablations
from rotate_core.experiments.reconstruction import n_distinct
from rotate_core.null.matched import matched_vectors
from rotate_core.verdicts.comparison import MATCHED, NEURONS

SETTINGS = Settings(threshold=3.0)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(12, 300, generator=generator)
    projection[0, :15] += 8
    return Vocabulary(projection, torch.ones(300))


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return torch.randn(30, 12, generator=torch.Generator().manual_seed(1))


def test_every_change_is_measured_on_neurons_and_null_alike(vocabulary, vectors):
    null = matched_vectors(vectors, 4)
    table, clock = ablations.compare(vectors[:3], null, vocabulary, settings=SETTINGS, n_channels=2)
    assert list(table.change.unique()) == list(ablations.CHANGES)
    sizes = table.groupby(["change", "what"]).size().unstack()
    assert (sizes[NEURONS] == 3).all()
    assert (sizes[MATCHED] == 4).all()
    assert clock.groupby("change").size().eq(2).all(), "a time for each channel"
    ours = decompose(torch.cat([vectors[:3], null]), vocabulary, n_channels=2, settings=SETTINGS)
    rows = table[table.change == ablations.OURS]
    assert rows.cosine.tolist() == pytest.approx(ours.cosine.mean(1).tolist(), abs=1e-6)
    assert rows.distinct.tolist() == (n_distinct(ours) / 2).tolist()
    half = table[table.change == "half the lambda"]
    assert half.cosine.mean() > rows.cosine.mean(), "less kurtosis is wanted: closer to the neuron"


def test_stricter_thresholds_leave_fewer_distinct_channels(vocabulary, vectors):
    channels = decompose(vectors[:5], vocabulary, n_channels=4, settings=SETTINGS)
    values = ablations.measures(channels)
    for a, b in zip(ablations.COSINES, ablations.COSINES[1:], strict=False):
        for index in ablations.JACCARDS:
            less, more = (values[f"distinct {cosine} {index}"] for cosine in (a, b))
            assert all(x <= y for x, y in zip(less, more, strict=True))
    assert values["distinct"] == values["distinct 0.95 0.5"]


def test_times_are_relative_to_the_first_change():
    rows = [(c, 0, i, s * (i + 1)) for c, s in (("ours", 2.0), ("slow", 6.0)) for i in range(5)]
    clock = pd.DataFrame(rows, columns=["change", "layer", "position", "seconds"])
    ratios = ablations.times_ours(clock)
    assert (ratios["ours"].value, ratios["slow"].value, ratios["slow"].n) == (1, 3, 5)
