"""Levels of features: what tuning keeps, and a tree that is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from planted import planted_factors

from rotate_core.dictionaries import hierarchy, snmf
from rotate_core.dictionaries.surrogates import permuted_supports

OPTIONS = {"share": 0.08, "progress": False, "n_moves": 2}


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_tuning_keeps_signs_and_supports_and_descends(scale: bool, given: bool) -> None:
    x = planted_factors(0, n=300, d=100, dtype=torch.float64)[0]
    fine = snmf(x, 12, scale_neurons=scale, **OPTIONS)
    target = x if given else None
    loose, tuned = (
        hierarchy(fine, (6, 3), activations=target, tune=n, progress=False) for n in (0, 10)
    )
    assert all(after <= before + 1e-12 for before, after in pairwise(tuned.history))
    assert tuned.history[-1] < tuned.history[0]
    for before, after in zip(loose.levels, tuned.levels, strict=True):
        assert (after.coefficients >= 0).all()
        neurons, kept = (
            set(map(tuple, (f.vectors != 0).nonzero().tolist())) for f in (before, after)
        )
        assert kept <= neurons
        assert after.support.shape[1] == 8
    values = x if given else fine.reconstruct(fine.coefficients)
    for level, factors in enumerate(tuned.levels):
        y = tuned.coefficients(level)
        assert y.shape == (300, factors.n_features)
        assert factors.energy_explained(values, y) == pytest.approx(factors.explained)
    assert 1 - sum(f.explained for f in tuned.levels) / 3 == pytest.approx(tuned.history[-1])


def test_a_planted_tree_is_found() -> None:
    """Two groups of three features that share neurons: the second level joins each group."""
    g = torch.Generator().manual_seed(0)
    z = torch.zeros(6, 60)
    for i in range(6):
        first = 30 * (i // 3)
        z[i, first : first + 4] = 1
        z[i, first + 10 + 4 * (i % 3) : first + 14 + 4 * (i % 3)] = 1
    y = (torch.rand(600, 6, generator=g) < 0.3) * (torch.rand(600, 6, generator=g) + 0.5)
    x = y @ z + 0.01 * torch.randn(600, 60, generator=g)
    fine = snmf(x, 6, share=16 / 60, progress=False)  # a parent has room for all of its children
    tree = hierarchy(fine, (2,), activations=x, progress=False)
    children = tree.edges().groupby("parent").child.apply(set)
    groups = [{i for i in range(6) if fine.support[i, 0] // 30 == group} for group in range(2)]
    assert sorted(map(sorted, children)) == sorted(map(sorted, groups))
    assert "6 - 2 features" in repr(tree)


def test_bad_levels_are_named() -> None:
    x = planted_factors(0, n=100, d=100)[0]
    fine = snmf(x, 4, **OPTIONS)
    for sizes in ((), (4,), (3, 3), (0,)):
        with pytest.raises(ValueError, match="wanted ever fewer"):
            hierarchy(fine, sizes)
    with pytest.raises(ValueError, match=r"wanted the tokens of the fit, \(100, 100\)"):
        hierarchy(fine, (2,), activations=x[:50])


def test_permuted_supports_keep_values() -> None:
    fine = snmf(planted_factors(0, n=100, d=100)[0], 4, **OPTIONS)
    other = permuted_supports(fine, seed=1)
    assert torch.equal(other.vectors.sort(1).values, fine.vectors.sort(1).values)
    assert not torch.equal(other.support, fine.support)
    assert torch.equal(other.vectors.gather(1, other.support), fine.vectors.gather(1, fine.support))
