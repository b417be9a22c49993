"""Four ways to small p-values: what each promises, on made-up nulls whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from rotate_core.experiments import null_validity
from rotate_core.experiments.null_validity import DECOYS, EXPONENTIAL, PARETO, RANK


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return np.random.default_rng(0).normal(size=3000)


@pytest.fixture(scope="module")
def valid(fresh: np.ndarray):  # type: ignore[no-untyped-def]
    others = [np.random.default_rng(1).normal(size=100), np.random.default_rng(2).normal(9, 1, 100)]
    return null_validity.validity(fresh, others, n_repeats=60)


@pytest.fixture(scope="module")
def discovered(fresh: np.ndarray):  # type: ignore[no-untyped-def]
    planted = {8.0: np.random.default_rng(3).normal(8, 0.1, 50)}
    return null_validity.discoveries(fresh, planted, n_repeats=60)


def test_a_tail_that_is_fitted_without_its_uncertainty_is_not_valid(valid) -> None:  # type: ignore[no-untyped-def]
    ratio = valid.set_index(["method", "level"]).ratio
    assert ratio[PARETO, 0.0001] > 5
    for method in (EXPONENTIAL, RANK):
        assert (ratio[method] <= null_validity.SLACK).all(), method
    assert ratio[RANK, 0.001] == 0


def test_one_planted_channel_is_found_by_the_tail_alone(discovered) -> None:  # type: ignore[no-untyped-def]
    one = discovered[discovered.planted == 1].set_index("method").power
    assert one[EXPONENTIAL] > 0.9
    assert max(one[RANK], one[DECOYS]) < 0.1  # three of 25 are the least that ranks can certify
    five = discovered[discovered.planted == 5].set_index("method").power
    assert five[RANK] == 1


def test_a_tenth_of_the_discoveries_is_false_at_most(discovered) -> None:  # type: ignore[no-untyped-def]
    honest = discovered[discovered.method.isin([EXPONENTIAL, RANK, DECOYS])]
    assert (honest.low <= 0.1).all()


def test_the_rule_takes_the_valid_way_that_finds_most(valid, discovered) -> None:  # type: ignore[no-untyped-def]
    choice = null_validity.choose(valid, discovered)
    assert list(choice.index[choice.chosen]) == [EXPONENTIAL]
    assert not choice.valid[PARETO]
    louder = discovered.assign(power=discovered.power.where(discovered.method != PARETO, 1.0))
    assert null_validity.choose(valid, louder).chosen.equals(choice.chosen)


def test_only_nulls_that_look_alike_are_pooled() -> None:
    null = np.linspace(-1, 1, 50)
    observed = np.array([5.0])
    assert null_validity.pooled(observed, null, [null + 0.01])[0] == pytest.approx(1 / 101)
    assert null_validity.pooled(observed, null, [null + 3])[0] == pytest.approx(1 / 51)


def test_decoys_are_counted_by_hand() -> None:
    null = np.array([0.0, 1.0, 2.0, 3.0])
    observed = np.array([10.0, 2.5, 9.0, -1.0])
    # beyond 10: (1 + 0) / 4 * 4 / 1; beyond 9: 1 / 4 * 4 / 2; beyond 2.5: 2 / 4 * 4 / 3
    expected = [0.5, 2 / 3, 0.5, 1.0]
    np.testing.assert_allclose(null_validity.decoy_q_values(observed, null), expected)


def test_values_may_be_read_only() -> None:
    values = np.linspace(-1, 1, 50)
    values.flags.writeable = False  # as columns of a table are; torch warns of it
    assert null_validity.rank(values, values).shape == (50,)


def test_draws_are_seeded(fresh: np.ndarray) -> None:
    first, again, other = (null_validity.validity(fresh, n_repeats=3, seed=s) for s in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)
    with pytest.raises(ValueError, match="150 fresh vectors: wanted at least 200"):
        null_validity.validity(fresh[:150])
