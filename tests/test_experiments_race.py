"""The race: a clock that counts, a curve that ends where the channel does, a true line search."""

import pytest
import torch

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.race import (
    by_neuron,
    clocked,
    left_to_gain,
    profile_along_gradient,
    seconds_to,
    stops,
)


@pytest.fixture(scope="module")
def vocabulary():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(16, 600, generator=generator)
    projection[0, :12] += 8
    return Vocabulary(projection, torch.ones(600))


@pytest.fixture(scope="module")
def w():
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(1))


def test_the_line_search_takes_the_best_point_of_the_profile(w, vocabulary):
    profile = profile_along_gradient(w[0], vocabulary, n_points=400)
    best = profile.curve.loc[profile.curve.objective.idxmax()]
    assert profile.objective >= best.objective - 1e-6
    assert profile.t == pytest.approx(best.t, abs=0.01)
    assert profile.objective > profile.curve.objective.iloc[0]


def test_a_run_ends_at_its_channels_objective(w, vocabulary):
    run = clocked(w, vocabulary, progress=False)
    mean = run.channels.objective.mean().item()
    assert run.curve.objective.iloc[-1] == pytest.approx(mean, abs=1e-5)
    assert run.curve.seconds.iloc[-1] == pytest.approx(run.seconds)
    assert seconds_to(run, mean + 1) is None
    assert seconds_to(run, run.curve.objective.iloc[2]) == run.curve.seconds.iloc[2]


def test_a_run_against_itself_gains_nothing(w, vocabulary):
    run = clocked(w, vocabulary, progress=False)
    short = clocked(w, vocabulary, max_iter=1, progress=False)
    table = by_neuron(run, run)
    assert table.cosine.to_numpy() == pytest.approx(1, abs=1e-5)
    assert (table.gain == 0).all()
    assert (by_neuron(run, short).gain > 0).all()


def test_a_tolerance_stops_where_the_solver_does(w, vocabulary):
    left = left_to_gain(w, vocabulary)
    tolerances = (1e-2, 1e-4)
    for row in stops(left, tolerances).itertuples():
        real = decompose(w, vocabulary, n_channels=1, tolerance=row.tolerance, progress=False)
        assert row.iterations == pytest.approx(real.n_iter.double().mean().item())
    assert left[:, 0].min() > 0
    assert left[:, -1].max() == pytest.approx(0, abs=1e-9)


def test_a_neuron_that_pauses_before_it_gains_more_is_on_a_plateau():
    left = torch.tensor([[0.5, 0.1, 0.0, 0.0], [0.5, 0.3, 0.3, 0.0]], dtype=torch.float64)
    (row,) = stops(left, [1e-3]).itertuples()
    assert (row.n_on_plateau, row.mean_loss, row.iterations) == (1, 0.15, 2.5)
