"""Factors: known truth, descent, optimality, and what is refused."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
import torch
from planted import planted_factors
from torch import Tensor

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.dictionaries import PAPER_FACTORS, Factors, hals, multiplicative, snmf
from rotate_core.dictionaries.hals import largest

QUIET = {"progress": False}


def matched(a: Tensor, b: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    cosine = torch.nn.functional.cosine_similarity(a[:, None], b, dim=2)
    return cosine[linear_sum_assignment(-cosine.numpy())]


def fit(x: Tensor, k: int, **options) -> Factors:
    return snmf(x, k, **QUIET, **options)


@pytest.mark.parametrize("seed", range(10))
def test_planted_features_are_found(seed) -> None:
    x, z, y = planted_factors(seed)
    found = fit(x, len(z), share=8 / 400, seed=seed)
    assert matched(z, found.vectors).mean() > 0.95
    assert found.support.shape == (20, 8)
    assert found.coefficients.shape == y.shape


@pytest.mark.parametrize("options", [{}, {"share": 1.0}, {"scale_neurons": True}])
def test_the_loss_never_rises(options) -> None:
    x = planted_factors(1, dtype=torch.float64)[0]
    found = fit(x, 12, history=True, **{"share": 0.02} | options)
    assert all(after <= before + 1e-12 for before, after in pairwise(found.history))
    assert found.explained == pytest.approx(1 - found.history[-1], abs=1e-4)


def test_the_papers_update_may_rise() -> None:
    x = torch.randn(300, 100, generator=torch.Generator().manual_seed(0)) + 0.5
    y = torch.rand(10, len(x), generator=torch.Generator().manual_seed(1))
    losses = [sweep.loss for sweep in islice(multiplicative.fit(x, y, 5), 50)]
    assert any(after > before for before, after in pairwise(losses))
    loss = next(multiplicative.fit(x, y, 5))
    assert loss.loss == pytest.approx(float((x - loss.y.T @ loss.z).square().sum()), rel=1e-5)


def test_each_block_is_optimal_at_the_end() -> None:
    x = planted_factors(2, k=6, d=60, s=4, n=300, dtype=torch.float64)[0]
    z, y, *_ = next(islice(hals.fit(x, x[:6], 4), 1000, None))
    left = x - y.T @ z
    for j in range(len(z)):  # the thresholded least squares of what the others leave
        alone = y[j] @ (left + torch.outer(y[j], z[j])) / y[j].square().sum()
        assert torch.allclose(largest(alone, 4), z[j], atol=1e-5)
    gradient = z @ left.T  # of half the explained energy
    assert gradient.max() < 1e-4
    assert (gradient * y).abs().max() < 1e-4


def test_the_loss_by_traces_is_the_loss() -> None:
    x = planted_factors(3, dtype=torch.float64)[0]
    sweep = next(islice(hals.fit(x, x[:5], 8), 4, None))
    assert sweep.loss == pytest.approx(float((x - sweep.y.T @ sweep.z).square().sum()))


def test_the_papers_solver() -> None:
    x, z, _ = planted_factors(4)
    found = fit(x, 20, settings=PAPER_FACTORS, share=8 / 400, tolerance=1e-4, patience=20, seed=1)
    ours = fit(x, 20, share=8 / 400)
    assert found.converged
    assert matched(z, found.vectors).mean() > 0.8
    assert ours.explained >= found.explained - 1e-3


@pytest.mark.parametrize("rank", [2, 5])
def test_dense_features_are_no_worse_than_one_component_less(rank) -> None:
    """Gillis and Kumar (2015): semi-NMF of rank r reaches the SVD of rank r - 1."""
    x = torch.randn(60, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.linalg.svdvals(x).square()
    bound = float(spectrum[: rank - 1].sum() / spectrum.sum())
    assert fit(x, rank, share=1.0, start="pca", n_starts=1).explained >= bound - 1e-9


def test_scale_order_and_chunks_change_nothing(monkeypatch) -> None:
    x = planted_factors(5, n=500, dtype=torch.float64)[0]
    found = fit(x, 10, share=0.02, n_moves=0, n_starts=1)
    larger = fit(1024 * x, 10, share=0.02, n_moves=0, n_starts=1)
    assert torch.allclose(larger.vectors, found.vectors)
    assert torch.allclose(larger.coefficients, 1024 * found.coefficients)
    monkeypatch.setattr(hals, "ON_CPU", 77)
    parts = fit(x, 10, share=0.02, n_moves=0, n_starts=1)
    assert torch.allclose(parts.vectors, found.vectors, atol=1e-8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found.encode(x[order]), found.coefficients[order], atol=1e-6)


def test_encoding_is_nonnegative_least_squares() -> None:
    from scipy.optimize import nnls

    x = planted_factors(6, n=300, dtype=torch.float64)[0]
    found = fit(x, 8, share=0.02)
    ours = found.encode(x[:5])
    for row, y in zip(x[:5], ours, strict=True):
        assert torch.allclose(y, torch.from_numpy(nnls(found.vectors.T.numpy(), row.numpy())[0]),
                              atol=1e-5)  # fmt: skip
    assert found.energy_explained(x) == pytest.approx(found.explained, abs=1e-6)


def test_scaled_neurons_have_no_unit() -> None:
    x = planted_factors(7, dtype=torch.float64)[0]
    unit = 10 ** torch.linspace(-3, 3, x.shape[1], dtype=torch.float64)
    found, other = (fit(y, 20, share=0.02, scale_neurons=True) for y in (x, x * unit))
    assert found.explained == pytest.approx(other.explained)
    assert [set(row) for row in found.support.tolist()] == [
        set(row) for row in other.support.tolist()
    ]
    back = other.vectors / unit
    assert torch.allclose(back / back.norm(dim=1, keepdim=True), found.vectors, atol=1e-6)


def test_odd_tokens_and_neurons() -> None:
    x = planted_factors(8, n=400)[0]
    x[3], x[:, 5] = 0, 0
    found = fit(x, 6, share=0.05, scale_neurons=True)
    assert not found.coefficients[3].any()
    assert not found.vectors[:, 5].any()
    x[4] *= 1e4
    assert fit(x, 6).n_outliers == 1
    same = x[10].expand(50, -1)
    assert fit(same, 1, share=1.0).explained == pytest.approx(1, abs=1e-5)
    alike = fit(same, 4, share=0.1, max_iter=3, tolerance=0.5, patience=1)
    assert alike.vectors.isfinite().all()


def test_tokens_that_are_explained_wholly() -> None:
    exact = torch.eye(4, dtype=torch.float64).repeat(10, 1)
    found = fit(exact, 4, share=0.25)
    assert found.explained == pytest.approx(1)
    assert fit(exact, 4, share=0.25, start_tokens=1).vectors.isfinite().all()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(3, 4), {"n_features": 4}, "3 tokens for 4 features"),
        (torch.ones(3, 4), {"n_features": 0}, "n_features=0"),
        (torch.zeros(3, 4), {}, "all 3 tokens are zero"),
        (torch.ones(3), {}, r"shape \(3,\)"),
        (torch.full((3, 4), math.nan), {}, "3 of 3 tokens are not finite"),
        (torch.ones(3, 4), {"share": 0.0}, "share=0.0"),
        (torch.ones(3, 4), {"share": 1.5}, "share=1.5"),
        (torch.ones(3, 4), {"solver": "sgd"}, "solver='sgd'"),
        (torch.ones(3, 4), {"start": "svd"}, "start='svd'"),
        (torch.ones(3, 4), {"n_moves": -1}, "n_moves=-1"),
        (torch.ones(3, 4), {"patience": 0}, "patience=0"),
    ],
)
def test_bad_input_is_named(x, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        snmf(x, **{"n_features": 2} | options, **QUIET)


def test_not_converged_is_said() -> None:
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        fit(planted_factors(0)[0], 20, max_iter=2)
