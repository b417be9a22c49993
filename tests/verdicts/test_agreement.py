"""Agreement of partitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rotate_core.verdicts.agreement import adjusted_rand_index


def test_names_do_not_count() -> None:
    assert adjusted_rand_index([0, 0, 1, 1, 2], [5, 5, 3, 3, 9]) == 1.0


def test_a_value_by_hand() -> None:
    """Of six pairs two are together in the first, one in both: (1 - 1/3) / (3/2 - 1/3)."""
    assert adjusted_rand_index([0, 0, 1, 1], [0, 0, 1, 2]) == pytest.approx(4 / 7)


def test_random_partitions_agree_by_chance() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 8, (2, 5000))
    assert abs(adjusted_rand_index(a, b)) < 0.01
    assert math.isnan(adjusted_rand_index([0, 0], [1, 1]))
