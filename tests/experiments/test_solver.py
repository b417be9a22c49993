"""Solvers compared: a clock that counts, curves that end at the channel, a true line search."""

import dataclasses

import pytest
import torch

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.solver import (
    ANY_GRADIENT,
    by_neuron,
    comparison,
    optimality_gap,
    profile_along_gradient,
    seconds_until,
    speedup_finding,
    stops,
    timed,
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
    run = timed(w, vocabulary, progress=False)
    mean = run.channels.objective.mean().item()
    assert run.curve.objective.iloc[-1] == pytest.approx(mean, abs=1e-5)
    assert run.curve.seconds.iloc[-1] == pytest.approx(run.seconds)
    assert seconds_until(run, mean + 1) is None
    assert seconds_until(run, run.curve.objective.iloc[2]) == run.curve.seconds.iloc[2]


def test_a_run_against_itself_gains_nothing(w, vocabulary):
    run = timed(w, vocabulary, progress=False)
    short = timed(w, vocabulary, max_iter=1, progress=False)
    table = by_neuron(run, run)
    assert table.cosine.to_numpy() == pytest.approx(1, abs=1e-5)
    assert (table.gain == 0).all()
    assert (by_neuron(run, short).gain > 0).all()


def test_a_tolerance_stops_where_the_solver_does(w, vocabulary):
    gap = optimality_gap(w, vocabulary)
    tolerances = (1e-2, 1e-4)
    for tolerance, row in zip(tolerances, stops(gap, tolerances).itertuples(), strict=True):
        real = decompose(
            w,
            vocabulary,
            n_channels=1,
            start="weight",
            tolerance=tolerance,
            gradient_tolerance=ANY_GRADIENT,
            progress=False,
        )
        assert row.Index == f"{tolerance:.0e}"
        assert row.iterations == pytest.approx(real.n_iter.double().mean().item())
    assert gap[:, 0].min() > 0
    assert gap[:, -1].max() == pytest.approx(0, abs=1e-9)


def test_a_neuron_that_pauses_before_it_gains_more_is_on_a_plateau():
    gap = torch.tensor([[0.5, 0.1, 0.0, 0.0], [0.5, 0.3, 0.3, 0.0]], dtype=torch.float64)
    (row,) = stops(gap, [1e-3]).itertuples()
    assert (row.n_on_plateau, row.mean_loss, row.iterations) == (1, 0.15, 2.5)


def test_the_solvers_own_stop_loses_less_than_the_gain_alone(w, vocabulary):
    gap = optimality_gap(w, vocabulary)
    real = timed(w, vocabulary, tolerance=0.1, progress=False).channels
    table = stops(gap, [0.1], real)
    alone, own_rule = table.loc["1e-01"], table.loc["solver"]
    assert own_rule.iterations == pytest.approx(real.n_iter.double().mean().item())
    assert own_rule.iterations > alone.iterations
    assert own_rule.mean_loss < alone.mean_loss
    assert real.converged.all()


def test_a_ratio_is_given_only_against_a_run_that_converged(w, vocabulary):
    ours = timed(w, vocabulary, moments="scaled", progress=False)
    short = timed(w, vocabulary, moments="scaled", max_iter=2, progress=False)
    assert comparison(ours, short)["speedup"] is None
    finding = speedup_finding(ours, short)
    assert finding.startswith("No ratio is given: the paper's solver had not converged for 3 of 3")
    assert "after 2 steps" in finding
    assert "times sooner" not in finding
    other = dataclasses.replace(ours, seconds=100 * ours.seconds)
    ratio = comparison(ours, other)["speedup"]
    assert ratio is not None
    assert ratio >= 100
    finding = speedup_finding(ours, other)
    assert f"{ratio:.0f} times sooner" in finding
    assert "ends lower by 0.01 or more for 0% of 3 neurons" in finding


def test_a_run_that_stays_below_is_no_sooner_and_one_that_ends_lower_says_for_how_many(
    w, vocabulary
):
    options = {"moments": "scaled", "start": "weight", "progress": False}
    ours = timed(w, vocabulary, **options)
    short = timed(w, vocabulary, max_iter=1, **options)
    assert comparison(short, ours)["speedup"] is None
    n_lower = int((short.channels.objective < ours.channels.objective - 0.01).sum())
    assert n_lower == 1
    assert speedup_finding(short, ours) == (
        "The geodesic solver stays below the paper's end, and "
        "ends lower by 0.01 or more for 33% of 3 neurons"
    )


def test_runs_on_different_objectives_are_not_compared(w, vocabulary):
    ours = timed(w, vocabulary, progress=False)
    other = timed(w, vocabulary, moments="scaled", progress=False)
    with pytest.raises(ValueError, match="wanted the same"):
        comparison(ours, other)
