"""Measures of regions: known truth and closed forms."""

from __future__ import annotations

import pytest
import torch

from rotate_core.dictionaries import mfa
from rotate_core.dictionaries.mixture import read, readers
from rotate_core.dictionaries.surrogates import gaussian
from rotate_core.experiments import regions
from rotate_core.text import Activations
from rotate_core.text.corpus import Windows


def activations(x: torch.Tensor, n_windows: int = 20) -> Activations:
    """Rows of x as tokens of so many one-window documents."""
    length = len(x) // n_windows
    tokens = torch.randint(5, (n_windows, length + 2), generator=torch.Generator().manual_seed(0))
    titles = tuple(map(str, range(n_windows)))
    windows = Windows(tokens, torch.arange(n_windows), titles)
    return Activations(
        values=x.float(),
        window=torch.arange(n_windows).repeat_interleave(length),
        place=torch.arange(1, length + 1).repeat(n_windows),
        windows=windows,
        model="m",
        layer=0,
        site="residual",
    )


@pytest.fixture(scope="module")
def clusters() -> tuple[Activations, Activations]:
    g = torch.Generator().manual_seed(0)
    centroids = 6 * torch.randn(5, 12, generator=g)
    x = centroids[torch.randint(5, (2000,), generator=g)] + torch.randn(2000, 12, generator=g)
    return activations(x[:1000]), activations(x[1000:])


def test_the_surrogate_has_the_mean_and_covariance(clusters) -> None:
    x = clusters[0].values
    big = activations(torch.zeros(40_000, 12))
    drawn = gaussian(big, like=x, seed=0).values
    assert torch.allclose(drawn.mean(0), x.mean(0), atol=0.1)
    assert torch.allclose(torch.cov(drawn.T), torch.cov(x.T), rtol=0.1, atol=0.7)
    assert torch.equal(drawn, gaussian(big, like=x, seed=0).values)


def test_one_component_is_the_sample_covariance_at_its_most(clusters) -> None:
    g = torch.Generator().manual_seed(1)
    loadings = torch.randn(8, 2, generator=g, dtype=torch.float64)
    noise = torch.linspace(0.2, 1, 8).double()
    x = torch.randn(50_000, 2, generator=g, dtype=torch.float64) @ loadings.T
    x += noise.sqrt() * torch.randn(50_000, 8, generator=g, dtype=torch.float64)
    one = regions.one_component(x, 2, n_iter=200)
    assert torch.allclose(one.noise, noise, rtol=0.1)
    w = one.loadings[0]
    assert torch.allclose(w @ w.T, loadings @ loadings.T, atol=0.1)
    em = mfa(x[:2000], 1, rank=2, held_share=0.0, progress=False, outliers=None, max_iter=500)
    closed = regions.one_component(x[:2000], 2, n_iter=200)
    value = read(x[:2000], readers(closed, closed.noise))[0].mean()
    assert value == pytest.approx(em.log_likelihood, abs=0.01)


def test_regions_gain_where_there_are_some_and_nowhere_else(clusters) -> None:
    surrogate = tuple(gaussian(x, like=clusters[0].values, seed=0) for x in clusters)
    texts = {regions.DATA: clusters, regions.SURROGATE: surrogate}
    table, fits = regions.likelihoods(texts, [5], rank=1, seed=0)
    gain = table.groupby("what").gain.mean()
    assert gain[regions.DATA] > 0.1 > 0.02 > gain[regions.SURROGATE]
    assert len(table) == 40
    again = mfa(clusters[0], 5, rank=1, seed=1, progress=False)
    same = regions.agreement(fits[regions.DATA, 5], again, clusters[1])
    assert same.ari.mean() > 0.9
    assert regions.explained(again, clusters[1], parts="centroid") > 0.8


def test_effective_numbers() -> None:
    assert regions.effective_number(torch.arange(8)) == pytest.approx(8)
    assert regions.effective_number(torch.zeros(9, dtype=torch.long)) == pytest.approx(1)
    assert regions.equal_rank(4, 2, 100) == 11  # 4 (2 + 1) d = (11 + 1) d, beside the noise
    assert regions.equal_rank(64, 8, 576) == 288


def test_a_table_of_breadth_and_the_three_that_are_read(clusters) -> None:
    fit = mfa(clusters[0], 5, rank=1, progress=False)
    table = regions.breadth(fit, clusters[1], seed=0)
    assert table["n"].sum() == 1000
    assert (table.tokens <= 5 + 1e-9).all()
    assert len(set(regions.read_closely(table).values())) == 3
    assert len(regions.read_closely(table.head(2))) == 2, "there are no three"
    assert regions.read_closely(table, least=2000) == {}


def test_sums_of_factors_are_not_regions() -> None:
    table = regions.sums_of_factors(n_factors=6, d=24, n=1500)
    assert (table.additive > table.mixture + 0.1).all()
