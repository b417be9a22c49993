"""A swap in the whole space swaps attention, in none of it nothing."""

from __future__ import annotations

import torch

from rotate_core.heads import random_subspaces, swap

D = 6


def prompts():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(50, D, generator=g), torch.randn(50, 4, D, generator=g)
    attended = (q.unsqueeze(1) * k).sum(2).argmax(1)
    return q, k, attended, (attended + 1) % 4


def test_the_whole_space_swaps_fully_and_an_empty_one_not_at_all():
    q, k, attended, other = prompts()
    whole = swap(q, k, attended, other, torch.eye(D), scaling=0.5)
    torch.testing.assert_close(whole.after, 1 - whole.before)
    assert whole.flipped.all()
    none = swap(q, k, attended, other, torch.empty(D, 0))
    assert (none.change == 0).all()
    assert not none.flipped.any()


def test_the_part_that_tells_keys_apart_swaps_and_the_rest_does_not():
    q, k, attended, other = prompts()
    k[..., 1:] = 1.0  # they differ in the first coordinate alone
    attended = (q.unsqueeze(1) * k).sum(2).argmax(1)
    eye = torch.eye(D)
    assert (swap(q, k, attended, other, eye[:, 1:]).change.abs() < 1e-6).all()
    first = swap(q, k, attended, other, eye[:, :1], softcap=2.0)
    torch.testing.assert_close(first.after, 1 - first.before)


def test_random_subspaces_are_orthonormal_and_seeded():
    bases = random_subspaces(8, 3, 5, seed=1)
    assert len(bases) == 5
    for basis in bases:
        torch.testing.assert_close(basis.T @ basis, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.equal(bases[0], random_subspaces(8, 3, 5, seed=1)[0])
    assert not torch.equal(bases[0], random_subspaces(8, 3, 5, seed=2)[0])
