"""Planted channels: where they are put, and that they are found when they are strong."""

from __future__ import annotations

import pytest
import torch

from rotate_core import Settings, Vocabulary, decompose
from rotate_core.experiments.null_power import (
    plant,
    planted_statistics,
    power_table,
    token_clusters,
)
from rotate_core.null.matched import matched_vectors


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(12, 500, generator=generator)
    projection[0, :20] += 8
    weights = torch.ones(500)
    weights[490:] = 0
    return Vocabulary(projection, weights)


def test_clusters_are_near_in_direction_and_of_allowed_tokens(vocabulary: Vocabulary) -> None:
    tokens, directions = token_clusters(vocabulary, 200, 15, seed=1)
    assert tokens.shape == (200, 15)
    assert (tokens < 490).all()
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(200))
    planted = tokens[:, 0] < 20
    assert planted.any()
    assert ((tokens[planted] < 20).float().mean() > 0.9).all()
    assert (directions[planted, 0] > 0.8).all()


def test_planting_nothing_changes_nothing(vocabulary: Vocabulary) -> None:
    vectors = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    direction = torch.eye(12)[:3]
    assert torch.equal(plant(vectors, direction, 0.0), vectors)
    added = plant(vectors, direction, 0.5) - vectors
    torch.testing.assert_close(added.norm(dim=1), 0.5 * vectors.norm(dim=1))


def test_power_grows_with_strength(vocabulary: Vocabulary) -> None:
    layer = torch.randn(50, 12, generator=torch.Generator().manual_seed(3))
    null = decompose(
        matched_vectors(layer, 80, seed=0), vocabulary, n_channels=1, threshold=3.0, progress=False
    )
    planted = planted_statistics(
        matched_vectors(layer, 40, seed=1),
        vocabulary,
        sizes=[10],
        strengths=[0.0, 3.0],
        settings=null.settings,
        names=["core", "kurtosis"],
    )
    columns = ["size", "strength", "vector", "seen", "turned_to", "core", "kurtosis"]
    assert list(planted) == columns
    assert planted.vector.tolist() == 2 * list(range(40))
    assert planted.seen[40:].mean() > planted.seen[:40].mean()
    table = power_table(planted, null)
    core = table[table.statistic == "core"].set_index("strength")["power"]
    assert core[0.0] < 0.2
    assert core[3.0] > core[0.0]
    assert set(table.n) == {40}


def test_whether_the_rotation_turned_to_what_was_planted(vocabulary: Vocabulary) -> None:
    vectors = 0.01 * torch.randn(3, 12, generator=torch.Generator().manual_seed(4))
    options = {"sizes": [4], "names": ["core"], "settings": Settings(threshold=1.5)}
    nothing = planted_statistics(vectors, vocabulary, strengths=[0.0], **options)
    alone = planted_statistics(vectors, vocabulary, strengths=[1e3], **options)
    assert alone.turned_to.sum() > nothing.turned_to.sum()
    assert alone.seen.min() > nothing.seen.max()


def test_a_cluster_larger_than_the_vocabulary(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="size=600: wanted 1 to 490"):
        token_clusters(vocabulary, 1, 600)
