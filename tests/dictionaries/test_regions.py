"""A result of regions: what it says of activations, how it steers, how it reads."""

from __future__ import annotations

import pytest
import torch
from planted import planted
from torch.distributions import Categorical, LowRankMultivariateNormal, MixtureSameFamily

from rotate_core.dictionaries import Regions, mfa


@pytest.fixture(scope="module", params=["shared", "own"])
def fitted(request) -> tuple[torch.Tensor, Regions]:
    x = planted(apart=0.7).x
    return x, mfa(x, 6, rank=3, noise=request.param, progress=False, tolerance=1e-3)


def components(regions: Regions) -> LowRankMultivariateNormal:
    return LowRankMultivariateNormal(
        regions.centroids, regions.loadings, regions.noise.expand_as(regions.centroids)
    )


def test_log_prob_is_torchs(fitted) -> None:
    x, regions = fitted
    mixture = MixtureSameFamily(Categorical(regions.weights), components(regions))
    assert (regions.log_prob(x) - mixture.log_prob(x)).abs().max() < 1e-9
    far = 1000 * x
    assert torch.allclose(regions.log_prob(far), mixture.log_prob(far), rtol=1e-9)


def test_responsibilities_are_bayes(fitted) -> None:
    x, regions = fitted
    joint = regions.weights.log() + components(regions).log_prob(x.unsqueeze(1))
    assert torch.allclose(regions.responsibilities(x), joint.softmax(1), atol=1e-9)


def test_local_and_reconstruction_are_their_formulas(fitted) -> None:
    x, regions = fitted
    r = regions.responsibilities(x)
    total = torch.zeros_like(x)
    for k in range(6):
        w, psi = regions.loadings[k], regions.noise.expand_as(regions.centroids)[k]
        m = torch.eye(3).double() + w.T @ (w / psi.unsqueeze(1))
        z = torch.linalg.solve(m, w.T @ ((x - regions.centroids[k]) / psi).T).T
        assert torch.allclose(regions.local(x, k), z, atol=1e-9)
        own = r.argmax(1) == k
        assert torch.allclose(regions.local(x)[own], z[own], atol=1e-9)
        total += r[:, k : k + 1] * (regions.centroids[k] + z @ w.T)
    assert torch.allclose(regions.reconstruct(x), total, atol=1e-9)
    parts = [regions.reconstruct(x, parts=part) for part in ("centroid", "local")]
    assert torch.allclose(sum(parts), total, atol=1e-9)
    assert torch.allclose(parts[0], r @ regions.centroids, atol=1e-9)


def test_loadings_are_orthogonal_and_the_largest_first(fitted) -> None:
    _, regions = fitted
    gram = regions.loadings.mT @ regions.loadings
    assert torch.allclose(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)), atol=1e-9)
    lengths = gram.diagonal(dim1=1, dim2=2)
    assert (lengths.diff(dim=1) <= 0).all()
    rank = regions.effective_rank()
    assert ((rank >= 1) & (rank <= 3)).all()


def test_steering(fitted) -> None:
    x, regions = fitted
    assert torch.allclose(regions.towards(2, 1.0)(x), regions.centroids[2].expand_as(x))
    assert torch.equal(regions.towards(2, 0.0)(x), x)
    z = torch.tensor([1.0, 0.0, -2.0])
    moved = regions.moved(1, z)(x) - x
    expected = regions.loadings[1, :, 0] - 2 * regions.loadings[1, :, 2]
    assert torch.allclose(moved, expected.expand_as(x))
    batch = x[:6].view(2, 3, -1).float()
    assert regions.towards(0, 0.5)(batch).dtype == torch.float32
    with pytest.raises(ValueError, match=r"z of shape \(2,\)"):
        regions.moved(1, torch.ones(2))
    with pytest.raises(IndexError, match="region=6: there are 6"):
        regions.towards(6, 0.5)


def test_top_positions_are_the_densest_of_a_region(fitted) -> None:
    x, regions = fitted
    top = regions.top_positions(3, k=5)
    assert list(top.columns) == ["row"]
    assert (regions.responsibilities(x[top.row.tolist()]).argmax(1) == 3).all()
    density = components(regions).log_prob(x[top.row.tolist()].unsqueeze(1))[:, 3]
    assert (density.diff() <= 1e-9).all()
    assert (regions.top_rows[3] >= 0).all()


def test_it_reads_well(fitted) -> None:
    _, regions = fitted
    assert "6 regions of rank 3 in 20 dimensions" in repr(regions)
    assert "<table" in regions._repr_html_()
    table = regions.table()
    assert table.weight.is_monotonic_decreasing
    assert set(table.region) == set(range(6))


def test_wrong_activations_and_parts(fitted) -> None:
    x, regions = fitted
    with pytest.raises(ValueError, match=r"wanted \(n_tokens, 20\)"):
        regions.log_prob(x[:, :4])
    with pytest.raises(ValueError, match="parts='all'"):
        regions.reconstruct(x, parts="all")
    assert regions.log_prob(x[:0]).shape == (0,)
