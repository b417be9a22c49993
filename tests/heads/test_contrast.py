"""Planted features come back with their rank and span; noise has none; parts add up."""

from __future__ import annotations

import pytest
import torch

from rotate_core.heads import Subspace, attribute, contrastive

D = 12


def planted(rank: int, *, n: int = 1500, noise: float = 0.3, seed: int = 0):
    """(queries, positives, negatives, key directions): k = A z + noise, q = B z + noise."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.linalg.qr(torch.randn(D, rank, generator=g))[0] for _ in range(2))
    z = torch.randint(2, (n, rank), generator=g) * 2.0 - 1
    others = torch.randint(2, (n, 2, rank), generator=g) * 2.0 - 1

    def with_noise(x):
        return 0.7 + x + noise * torch.randn(x.shape, generator=g)

    return with_noise(z @ b.T), with_noise(z @ a.T), with_noise(others @ a.T), a


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_planted_rank_and_its_span_come_back(rank):
    queries, positive, negative, a = planted(rank)
    part = contrastive(queries, positive, negative)
    assert part.rank == part.energy_rank == rank or part.rank == rank < part.energy_rank
    assert part.p_value == 0.01
    assert torch.linalg.svdvals(part.key.T @ a).min() > 0.98
    torch.testing.assert_close(part.key.T @ part.key, torch.eye(rank), atol=1e-5, rtol=0)


def test_noise_has_a_rank_by_energy_alone():
    ranks = []
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        q, k = torch.randn(300, D, generator=g), torch.randn(300, 5, D, generator=g)
        part = contrastive(q, k[:, :2], k[:, 2:], seed=seed, n_permutations=39)
        assert part.energy_rank > 5
        ranks.append(part.rank)
    assert sum(rank > 0 for rank in ranks) <= 4  # one of twenty is expected


def test_what_positives_and_negatives_share_cancels():
    queries, positive, negative, _ = planted(2, noise=0.0)
    part = contrastive(queries, positive, negative)
    shifted = contrastive(queries, positive + 5, negative + 5)
    torch.testing.assert_close(part.singular_values, shifted.singular_values, atol=1e-4, rtol=0)


def test_seeds_decide_the_null_and_nothing_else():
    data = planted(2)[:3]
    first, same, other = (contrastive(*data, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.null, same.null)
    assert not torch.equal(first.null, other.null)
    assert torch.equal(first.key, other.key)


def subspace(name: str, basis: torch.Tensor) -> Subspace:
    return Subspace(basis, basis, torch.ones(D), torch.zeros(19), basis.shape[1], name)


def test_parts_add_up_and_the_first_named_takes_the_overlap():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, D, generator=g), torch.randn(2, 7, D, generator=g)
    eye = torch.eye(D)
    first, second = subspace("first", eye[:, :2]), subspace("second", eye[:, 1:4])
    parts = attribute(q, k, [first, second])
    torch.testing.assert_close(sum(parts.values()), q @ k.transpose(1, 2))
    torch.testing.assert_close(parts["first"], q[..., :2] @ k[..., :2].transpose(1, 2))
    torch.testing.assert_close(parts["second"], q[..., 2:4] @ k[..., 2:4].transpose(1, 2))
    again = attribute(q, k, [second, first])
    torch.testing.assert_close(again["first"], q[..., :1] @ k[..., :1].transpose(1, 2))
    twice = attribute(q, k, [first, subspace("copy", first.query)])
    assert twice["copy"].abs().max() < 1e-5
    assert set(first.attribute(q, k)) == {"first", "rest"}


def test_a_rank_of_zero_attributes_nothing():
    empty = subspace("nothing", torch.empty(D, 0))
    q = torch.randn(4, D, generator=torch.Generator().manual_seed(0))
    parts = empty.attribute(q, q)
    assert (parts["nothing"] == 0).all()
    torch.testing.assert_close(parts["rest"], q @ q.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.ones(3, 4, 5)}, r"queries \(3, 4, 5\)"),
        ({"negative_keys": torch.ones(8, 3)}, "wanted \\(n, d_head\\) and twice"),
        ({"positive_keys": torch.full((8, D), torch.nan)}, "keys hold inf or nan"),
        ({"n_permutations": 9}, "n_permutations=9: wanted 19"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {name: torch.ones(8, D) for name in ("queries", "positive_keys", "negative_keys")}
    with pytest.raises(ValueError, match=message):
        contrastive(**good | change)


def test_names_are_different_and_none_is_the_rest():
    part = subspace("a", torch.eye(D)[:, :1])
    with pytest.raises(ValueError, match="wanted different ones"):
        attribute(torch.ones(2, D), torch.ones(2, D), [part, part])
    with pytest.raises(ValueError, match="'rest'"):
        part.named("rest").attribute(torch.ones(2, D), torch.ones(2, D))
