"""Steering changes what it says, at every position, and leaves nothing behind."""

import pytest
import torch
from tiny_models import D_MLP, D_MODEL, LAYERS, TOKENS, tiny

from rotate_core import ablate, steer
from rotate_core.models.architectures import ARCHITECTURES
from rotate_core.text import SITES, added, pulled
from rotate_core.text.sites import at_every_position


def vector(width=D_MODEL, seed=0):
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(network):
    return network(TOKENS).logits


def at(network, layer, site):
    return at_every_position(network, TOKENS, [layer], site=site, progress=False)[layer]


def is_bare(network):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_is_steered_is_what_is_read_and_the_rest_of_the_model_follows(family):
    network = tiny(family)
    before = logits(network)
    for site in SITES:
        v = vector(D_MLP if site == "hidden" else D_MODEL)
        plain = at(network, 1, site)
        with steer(network, 1, added(v, 2.0), site=site) as same:
            assert same is network
            torch.testing.assert_close(at(network, 1, site), plain + 2.0 * v)
            assert not torch.allclose(logits(network), before)
        assert torch.equal(logits(network), before)
    assert is_bare(network)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_the_mlp_writes_is_what_the_residual_gains(family):
    """Steering at mlp_out and at the residual behind it are one, whatever norm there is between."""
    network = tiny(family)
    with steer(network, 0, added(vector()), site="mlp_out"):
        one = logits(network)
    with steer(network, 0, added(vector()), site="residual"):
        torch.testing.assert_close(logits(network), one, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_function_that_changes_nothing_changes_no_bit(family, dtype):
    network = tiny(family).to(dtype)
    before = logits(network)
    seen = []
    for site in SITES:
        with steer(network, 0, lambda x: seen.append(x.dtype) or x, site=site):
            after = logits(network)
        assert torch.equal(after, before)
        assert after.dtype == dtype
    assert set(seen) == {torch.promote_types(dtype, torch.float32)}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_generating_with_and_without_a_cache_is_steered_alike(family):
    network = tiny(family)
    options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    plain = network.generate(TOKENS, **options)
    for function in (added(vector(), 3.0), pulled(vector(), 0.7)):
        with steer(network, 0, function):
            cached, whole = (
                network.generate(TOKENS, use_cache=c, **options) for c in (True, False)
            )
        assert torch.equal(cached, whole)
        assert not torch.equal(cached, plain)


def test_contexts_nest_and_the_inner_function_gets_what_the_outer_one_returns():
    network = tiny("llama")
    v, mu = vector(), vector(seed=1)
    plain = at(network, 1, "residual")
    with steer(network, 1, pulled(mu, 0.25)):
        with steer(network, 1, added(v)):
            torch.testing.assert_close(at(network, 1, "residual"), 0.75 * plain + 0.25 * mu + v)
        torch.testing.assert_close(at(network, 1, "residual"), 0.75 * plain + 0.25 * mu)
    assert torch.equal(at(network, 1, "residual"), plain)


def test_pulling_wholly_lands_on_the_point_and_not_at_all_changes_nothing():
    network, mu = tiny("gpt2"), vector()
    plain = at(network, 0, "residual")
    with steer(network, 0, pulled(mu, 1.0)):
        assert torch.equal(at(network, 0, "residual"), mu.expand_as(plain))
    with steer(network, 0, pulled(mu, 0.0)):
        assert torch.equal(at(network, 0, "residual"), plain)


def test_steering_goes_with_ablation():
    network = tiny("llama")
    before = logits(network)
    with ablate(network, [(0, 3, "out", vector())]), steer(network, 1, added(vector())):
        both = logits(network)
    with steer(network, 1, added(vector())), ablate(network, [(0, 3, "out", vector())]):
        assert torch.equal(logits(network), both)
    assert torch.equal(logits(network), before)


def test_steering_ends_with_an_exception():
    network = tiny("llama")
    with pytest.raises(RuntimeError, match="stop"), steer(network, 0, added(vector())):
        raise RuntimeError("stop")
    with (
        pytest.raises(ValueError, match=r"made \(16,\) of \(2, 6, 16\)"),
        steer(network, 0, lambda x: vector()),
    ):
        logits(network)
    assert is_bare(network)


def test_gradients_flow_through_the_function():
    network, v = tiny("llama"), vector().requires_grad_()
    with steer(network, 0, added(v)):
        network(TOKENS).logits.sum().backward()
    assert v.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "site", "error", "message"),
    [
        (LAYERS, "residual", IndexError, f"layer is {LAYERS}"),
        (0, "resid_post", ValueError, "site='resid_post': wanted one of"),
    ],
)
def test_bad_input_is_named(layer, site, error, message):
    network = tiny("llama")
    with pytest.raises(error, match=message), steer(network, layer, added(vector()), site=site):
        pass
    assert is_bare(network)
