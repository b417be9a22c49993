"""How hidden a planted channel may be: on made-up statistics whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rotate_core.experiments.null_hidden import (
    SEEN,
    TURNED_TO,
    least_certified,
    power_where_hidden,
    share_certified,
)

DRAWS = {"n_neurons": 10, "n_null": 30, "n_repeats": 20}


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return np.random.default_rng(0).normal(size=200)


def test_what_is_far_out_is_always_certified_and_what_is_not_never(fresh: np.ndarray) -> None:
    shares = share_certified(np.array([-3.0, 0.0, 50.0]), fresh, **DRAWS)
    assert shares.tolist() == [0, 0, 1]


def test_a_channel_is_certified_whatever_others_were_planted(fresh: np.ndarray) -> None:
    alone = [share_certified(np.array([x]), fresh, **DRAWS)[0] for x in (2.0, 5.0, 9.0)]
    together = share_certified(np.array([2.0, 5.0, 9.0]), fresh, **DRAWS)
    np.testing.assert_array_equal(together, alone)
    assert sorted(alone) == alone


def test_the_least_value_that_is_certified_in_half_of_the_draws(fresh: np.ndarray) -> None:
    least = least_certified(fresh, **DRAWS)
    below, at = share_certified(np.array([least - 0.05, least]), fresh, **DRAWS)
    assert below < 0.5 <= at
    assert math.isnan(least_certified(fresh, most=0.5, **DRAWS))


def test_channels_are_grouped_by_how_far_out_their_tokens_stood(fresh: np.ndarray) -> None:
    planted = pd.DataFrame(
        {
            "seen": [9.0, 1.0, 2.0, 1.5],  # 2 is in the step that begins there
            "vector": [0, 1, 2, 3],
            "turned_to": [True, True, False, False],
            "core": [50.0, 0.0, 0.0, 0.0],
        }
    )
    table = power_where_hidden(planted, {"core": fresh}, **DRAWS)
    assert SEEN == (2, 3, 4, 6)
    assert table.seen.tolist() == ["below 2", "2 to 3", "6 or more"]
    assert table.n.tolist() == [2, 1, 1]
    assert [e.value for e in table[TURNED_TO]] == [0.5, 0, 1]
    assert [e.value for e in table.core] == [0, 0, 1]


def test_too_few_fresh_vectors(fresh: np.ndarray) -> None:
    with pytest.raises(ValueError, match="20 fresh vectors: wanted at least 39 for a draw"):
        share_certified(np.zeros(1), fresh[:20], **DRAWS)
