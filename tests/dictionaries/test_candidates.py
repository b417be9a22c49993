"""Every method reads and writes by its own rule, and offers as many candidates of chance."""

import dataclasses

import pytest
import torch
from tiny_models import D_MLP, D_MODEL, TOKENS, tiny

from rotate_core import Vocabulary, decompose
from rotate_core.dictionaries import mfa, snmf, topk_sae
from rotate_core.dictionaries.candidates import (
    Writing,
    difference_of_means,
    from_channels,
    from_factors,
    from_regions,
    from_sae,
    linear,
)
from rotate_core.text import activations, at_sites, steer
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import SITES


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network():
    return tiny("llama")


@pytest.fixture(scope="module")
def sites(network):
    tokens = torch.randint(0, 40, (40, 8), generator=torch.Generator().manual_seed(0))
    windows = Windows(tokens, torch.arange(40), tuple(map(str, range(40))))
    return at_sites(network, windows, layer=1)


@pytest.fixture(scope="module")
def offered(sites):
    vocabulary = Vocabulary(drawn(D_MODEL, 60), torch.ones(60))
    rotated = [
        decompose(drawn(3, D_MODEL, seed=i), vocabulary, n_channels=2, progress=False)
        for i in (1, 2)
    ]
    out, gate = (
        dataclasses.replace(c, kind=kind) for c, kind in zip(rotated, ("out", "gate"), strict=True)
    )
    factors = snmf(sites["hidden"].values, 4, share=0.5, progress=False)
    regions = mfa(sites["residual"].values, 3, rank=2, progress=False)
    sae = topk_sae(sites["mlp_out"], 8, n_active=3, passes=3, progress=False)
    concepts = ["a", "b"] * (len(sites["mlp_out"]) // 2)
    return {
        "out": from_channels([out]),
        "gate": from_channels([gate]),
        "SNMF": from_factors(factors),
        "centroids": from_regions(regions, parts="centroids"),
        "local": from_regions(regions, parts="local"),
        "SAE": from_sae(sae),
        "means": difference_of_means(sites["mlp_out"].values, concepts, site="mlp_out"),
    }


def test_a_candidate_has_a_label_a_reading_and_a_vector(offered, sites):
    for candidates in offered.values():
        read = candidates.read(sites)
        assert read.shape == (len(sites["residual"]), len(candidates))
        assert read.isfinite().all()
        assert len(set(candidates.labels)) == len(candidates)
        if candidates.write is not None:
            width = D_MLP if candidates.write.site == "hidden" else D_MODEL
            assert candidates.write.vectors.shape == (len(candidates), width)
    assert offered["gate"].write is None


def test_chance_is_as_many_by_the_same_rule_and_again_the_same(offered, sites):
    for candidates in offered.values():
        one, again, other = (candidates.chance(seed) for seed in (0, 0, 1))
        assert len(one) == len(candidates)
        assert one.method == candidates.method
        assert torch.equal(one.read(sites), again.read(sites))
        assert not torch.equal(one.read(sites), other.read(sites))
        assert not torch.equal(one.read(sites), candidates.read(sites))


def test_local_parts_add_up_to_what_the_regions_say(sites):
    regions = mfa(sites["residual"].values, 3, rank=2, progress=False)
    read = from_regions(regions, parts="local").read(sites)
    n = read.shape[1] // 2
    loadings = regions.loadings.transpose(1, 2).flatten(0, 1)
    told = regions.reconstruct(sites["residual"].values, parts="local")
    torch.testing.assert_close(read[:, :n] @ loadings, told, atol=1e-4, rtol=1e-3)
    assert torch.equal(read[:, :n], -read[:, n:])


def test_a_channel_points_to_its_tail(offered):
    """Two channels of one vector and of its negative are the same candidates."""
    vocabulary = Vocabulary(drawn(D_MODEL, 60), torch.ones(60))
    found = decompose(drawn(2, D_MODEL), vocabulary, n_channels=1, progress=False)
    found = dataclasses.replace(found, kind="out")
    turned = dataclasses.replace(found, vectors=-found.vectors, polarity=-found.polarity)
    kept = found.polarity.flatten() != 0
    one, other = (from_channels([c]).write.vectors[kept] for c in (found, turned))
    assert torch.equal(one, other)


def test_an_sae_says_which_site_it_is_of(sites):
    sae = topk_sae(sites["mlp_out"].values, 8, n_active=3, passes=3, progress=False)
    with pytest.raises(ValueError, match="unknown site"):
        from_sae(sae)


def test_out_does_not_mix_with_what_is_read(offered):
    vocabulary = Vocabulary(drawn(D_MODEL, 60), torch.ones(60))
    found = decompose(drawn(2, D_MODEL), vocabulary, n_channels=1, progress=False)
    both = [dataclasses.replace(found, kind=kind) for kind in ("gate", "out")]
    with pytest.raises(ValueError, match=r"\['gate', 'out'\].*wanted those of out alone"):
        from_channels(both)
    with pytest.raises(ValueError, match="wanted centroids or local"):
        from_regions(None, parts="both")


@pytest.mark.parametrize("pull", [False, True])
@pytest.mark.parametrize("site", SITES)
def test_a_strength_of_zero_changes_no_bit(network, site, pull):
    width = D_MLP if site == "hidden" else D_MODEL
    writing = Writing(site, drawn(3, width), pull=pull)
    rows = torch.tensor([0, 2])
    with torch.no_grad():
        before = network(TOKENS).logits
        with steer(network, 1, writing.function(rows, torch.zeros(2)), site=site):
            assert torch.equal(network(TOKENS).logits, before)
        with steer(network, 1, writing.function(rows, torch.ones(2)), site=site):
            assert not torch.equal(network(TOKENS).logits, before)


def test_each_text_has_its_own_candidate_and_strength():
    writing = Writing("residual", drawn(3, 4))
    x = drawn(1, 5, 4, seed=1)
    moved = writing.function(torch.tensor([2, 0]), torch.tensor([0.5, -1.0]))(x)
    assert torch.allclose(
        moved, torch.stack([x[0] + 0.5 * writing.vectors[2], x[0] - writing.vectors[0]])
    )
    pulled = Writing("residual", drawn(3, 4), pull=True)
    there = pulled.function(torch.tensor([1]), torch.ones(1))(x)
    assert torch.allclose(there, pulled.vectors[1].expand(1, 5, 4))


def test_sites_are_read_in_one_pass_as_by_themselves(network, sites):
    for site in SITES:
        alone = activations(network, sites[site].windows, layers=[1], site=site, progress=False)[1]
        assert torch.equal(alone.values, sites[site].values)
        assert alone.site == sites[site].site == site


def test_the_difference_of_means_is_that():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    found = difference_of_means(x, ["a", "a", "b"], site="mlp_out")
    assert found.labels == ("a", "b")
    expected = torch.nn.functional.normalize(torch.tensor([[1.0, -4.0], [-1.0, 4.0]]))
    assert torch.allclose(found.write.vectors, expected)
    assert len(linear("x", ["1"] * 3, torch.eye(3), site="mlp_in").chance(0)) == 3
