"""Fits of regions: against known truth, closed forms, and what a user may get wrong."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch
from planted import matched_subspaces, planted

from rotate_core import ConvergenceWarning
from rotate_core.dictionaries import PAPER_REGIONS, RegionSettings, mfa
from rotate_core.dictionaries.em import expect, fit, maximise
from rotate_core.dictionaries.mixture import Mixture
from rotate_core.verdicts.agreement import adjusted_rand_index

QUIET = {"progress": False, "rank": 3}


@pytest.mark.parametrize("seed", range(10))
def test_planted_regions_are_found(seed: int) -> None:
    x, member, truth = planted(seed)
    regions = mfa(x, 6, seed=seed, **QUIET)
    assert adjusted_rand_index(member, regions.responsibilities(x).argmax(1)) > 0.9
    assert matched_subspaces(truth.loadings, regions.loadings).min() > 0.9
    assert regions.converged
    assert regions.n_tokens.sum() == len(x) - int(0.1 * len(x))
    assert (regions.weights.sum() - 1).abs() < 1e-12


@pytest.mark.parametrize("noise", ["shared", "isotropic", "own"])
def test_the_likelihood_never_falls(noise: str) -> None:
    x = planted(apart=0.3, n=800).x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regions = mfa(x, 9, noise=noise, history=True, max_iter=60, n_starts=1, **QUIET)
    assert regions.n_reseeded == 0
    assert min(b - a for a, b in zip(regions.history, regions.history[1:], strict=False)) > -1e-10


@pytest.mark.parametrize("rank", [1, 3])
def test_one_isotropic_region_is_ppca(rank: int) -> None:
    """Tipping and Bishop (1999): eigenvectors, and the mean of the eigenvalues left."""
    x = planted(k=2, d=8, n=400).x
    regions = mfa(
        x, 1, rank=rank, noise="isotropic", held_share=0.0, tolerance=1e-12, max_iter=5000,
        outliers=None, progress=False,
    )  # fmt: skip
    covariance = torch.cov(x.T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[:-rank].mean()
    assert torch.allclose(regions.centroids[0], x.mean(0), atol=1e-9)
    assert torch.allclose(regions.noise, noise.expand(8), rtol=1e-4)
    lengths = (values[-rank:] - noise).flip(0)
    assert torch.allclose(regions.loadings[0].square().sum(0), lengths, rtol=1e-4)
    span = vectors[:, -rank:].T @ regions.loadings[0] / lengths.sqrt()
    assert torch.allclose(torch.linalg.svdvals(span), torch.ones(rank).double(), atol=1e-4)


def test_chunks_and_all_regions_as_nearest_change_rounding_only() -> None:
    x, _, truth = planted()
    whole, each = expect(x, truth)
    for options in ({"memory": 30_000}, {"top": 5, "memory": 100_000}):
        part, each_too = expect(x, truth, **options)
        assert torch.allclose(each, each_too, atol=1e-6)  # a sixth region is far off
        for name in ("x", "z", "square", "n", "log_likelihood"):
            assert torch.allclose(getattr(whole, name), getattr(part, name), atol=1e-6, rtol=1e-9)
    own = Mixture(truth.weights, truth.centroids, truth.loadings, truth.noise.expand(6, -1))
    sums, _ = expect(x, own, top=5, memory=100_000)
    assert torch.allclose(sums.square.sum(0), whole.square)
    with pytest.raises(ValueError, match="for one token"):
        expect(x, truth, memory=10)


def test_the_same_seed_is_the_same_fit_and_float32_is_near_float64() -> None:
    x = planted().x
    first, again = (mfa(x, 6, seed=3, **QUIET) for _ in range(2))
    assert torch.equal(first.loadings, again.loadings)
    single = mfa(x.float(), 6, seed=3, **QUIET)
    assert single.centroids.dtype == torch.float32
    assert single.held_out == pytest.approx(first.held_out, abs=1e-3)


def test_regions_move_with_the_activations() -> None:
    x = planted().x
    plain, moved = mfa(x, 6, outliers=None, **QUIET), mfa(3 * x + 5, 6, outliers=None, **QUIET)
    assert torch.allclose(3 * plain.centroids + 5, moved.centroids, atol=1e-6)
    assert torch.allclose(9 * plain.noise, moved.noise, rtol=1e-6)
    assert moved.held_out == pytest.approx(plain.held_out - 20 * math.log(3), abs=1e-6)


def test_outliers_are_dropped_and_counted() -> None:
    x = planted().x
    x[[5, 80]] *= 1000
    regions = mfa(x, 6, **QUIET)
    assert regions.n_outliers == 2
    assert not set(regions.top_rows.flatten().tolist()) & {5, 80}
    assert regions.log_prob(x).isfinite().all()


def test_a_dead_region_is_put_where_tokens_are_worst_explained() -> None:
    x, _, truth = planted(apart=3.0)
    centroids = truth.centroids.clone()
    centroids[2] = 1e4  # no token is there
    begin = Mixture(truth.weights, centroids, truth.loadings, truth.noise)
    passes = fit(x, begin, noise="shared", floor=1e-6)
    steps = [next(passes) for _ in range(30)]
    assert [n for *_, n in steps].count(1) == 1
    assert matched_subspaces(truth.loadings, steps[-1][0].loadings).min() > 0.9


def test_a_gaussian_has_no_regions() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 12, generator=g) * torch.linspace(1, 3, 12)
    one, many = (mfa(x, k, rank=2, progress=False, noise="shared") for k in (1, 8))
    assert many.held_out < one.held_out + 0.05


def test_the_papers_adam_reaches_what_em_reaches() -> None:
    x = planted(n=500, apart=1.0).x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        em = mfa(x, 6, **QUIET)
        adam = mfa(
            x, 6, solver="gradient", learning_rate=0.01, batch=64, max_iter=25, history=True,
            **QUIET,
        )  # fmt: skip
    assert adam.history[-1] > adam.history[1]
    assert adam.held_out == pytest.approx(em.held_out, abs=0.5)
    assert PAPER_REGIONS.solver == "gradient"


def test_without_convergence_it_warns() -> None:
    with pytest.warns(ConvergenceWarning, match="after 2 passes"):
        assert not mfa(planted().x, 6, max_iter=2, tolerance=0.0, **QUIET).converged


def test_a_constant_dimension_has_the_least_noise() -> None:
    x = planted().x
    x[:, 4] = 7.0
    regions = mfa(x, 6, outliers=None, **QUIET)
    assert regions.noise.argmin() == 4
    assert torch.allclose(regions.centroids[:, 4], torch.tensor(7.0).double())


def test_repeated_tokens_are_a_region_whose_noise_stays_above_0() -> None:
    x = planted(n=600).x
    x[:300] = x[0]
    regions = mfa(x, 6, noise="own", outliers=None, **QUIET)
    assert (regions.noise > 0).all()
    assert math.isfinite(regions.held_out)


@pytest.mark.parametrize(
    ("x", "k", "options", "message"),
    [
        (torch.full((9, 4), math.nan), 2, {}, "9 of 9 tokens are not finite"),
        (torch.randn(5, 4), 9, {}, "5 tokens for 9 regions"),
        (torch.randn(50, 3), 2, {}, "rank=3: wanted less than the 3 dimensions"),
        (torch.ones(50, 8), 2, {}, "all 45 tokens are the same"),
        (torch.randn(50), 2, {}, r"shape \(50,\)"),
        (torch.ones(50, 8, dtype=torch.long), 2, {}, "int64"),
        (torch.randn(50, 8), 0, {}, "n_regions=0"),
        (torch.randn(50, 8), 2, {"noise": "none"}, "noise='none': wanted shared"),
        (torch.randn(50, 8), 2, {"rank": 0}, "rank=0"),
        (torch.randn(50, 8), 2, {"device": "mps"}, "float64"),
    ],
)
def test_bad_input_is_refused(x, k, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        mfa(x, k, **QUIET | options)


@pytest.mark.parametrize(
    "options",
    [
        {"held_share": 1.0}, {"outliers": 0.5}, {"floor": 0.0}, {"tolerance": -1.0}, {"top": 0},
        {"solver": "sgd"}, {"start": "zero"}, {"n_starts": 2.5},
        {"solver": "gradient", "noise": "isotropic"},
    ],
)  # fmt: skip
def test_settings_are_checked(options) -> None:
    with pytest.raises(ValueError, match=r"wanted|gradient"):
        RegionSettings(**options)


def test_a_region_without_tokens_keeps_its_parameters() -> None:
    x, _, truth = planted()
    centroids = truth.centroids.clone()
    centroids[1] = 1e5
    begin = Mixture(truth.weights, centroids, truth.loadings, truth.noise)
    begin = dataclasses.replace(begin, noise=begin.noise.expand(6, -1))
    after = maximise(expect(x, begin)[0], begin, noise="own", floor=1e-6)
    assert torch.equal(after.centroids[1], begin.centroids[1])
    assert after.centroids.isfinite().all()
