"""q . k is what the model's own softmax gets, in every family; nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from tiny_models import LAYERS, TOKENS, tiny

from rotate_core.heads import read_all_heads, read_heads
from rotate_core.heads.reading import attention_seen
from rotate_core.models.architectures import ARCHITECTURES
from rotate_core.text.corpus import Windows

WINDOW = 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request):
    """A family's model; where it can slide, its window is shorter than the text."""
    model = tiny(request.param)
    if getattr(model.config, "sliding_window", None):
        model.config.sliding_window = WINDOW
    return model


def allowed(network, layer: int) -> torch.Tensor:
    """Which keys a query may look at."""
    places = torch.arange(TOKENS.shape[1])
    distance = places.unsqueeze(1) - places
    kinds = getattr(network.config, "layer_types", None)
    slides = kinds[layer] == "sliding_attention" if kinds else True
    window = getattr(network.config, "sliding_window", None) if slides else None
    return (distance >= 0) & (distance < (window or 99))


@torch.no_grad()
def test_logits_are_the_models_own(network):
    weights = network(TOKENS, output_attentions=True).attentions
    read = read_all_heads(network, TOKENS, batch=1, progress=False)
    assert read.layers == tuple(range(LAYERS))
    for layer in range(LAYERS):
        mask = allowed(network, layer)
        for head in range(read.n_heads):
            logits = read.logits(layer, head).masked_fill(~mask, -torch.inf)
            torch.testing.assert_close(logits.softmax(-1), weights[layer][:, head])


def test_gemma_2_is_capped_and_scaled_by_its_config():
    network = tiny("gemma2")
    network.config.attn_logit_softcapping = 0.5
    for layer in network.model.layers:
        layer.self_attn.attn_logit_softcapping = 0.5
    read = read_all_heads(network, TOKENS, progress=False)
    assert read.softcap == 0.5
    assert read.scaling == pytest.approx([network.config.query_pre_attn_scalar**-0.5] * LAYERS)
    assert read.logits(1, 0).abs().max() < 0.5
    with torch.no_grad():
        weights = network(TOKENS, output_attentions=True).attentions
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    own = read.logits(1, 1).masked_fill(future, -torch.inf).softmax(-1)
    torch.testing.assert_close(own, weights[1][:, 1])


def test_one_head_and_some_places():
    network = tiny("llama")
    q, k = read_heads(network, layer=1, head=1, tokens=TOKENS, batch=1, progress=False)
    text = Windows(TOKENS, torch.arange(len(TOKENS)), ("a", "b"))
    read = read_all_heads(network, text, query_at=[-1], key_at=[2, 4], progress=False)
    torch.testing.assert_close(read.of(1, 1)[0], q[:, -1:])
    torch.testing.assert_close(read.of(1, 0)[1], k[:, [2, 4]])  # both queries share the key


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_model_is_as_it_was_after_an_exception(implementation):
    network = tiny("llama")
    network.set_attn_implementation(implementation)
    before = network(TOKENS).logits
    with pytest.raises(RuntimeError, match="mine"), attention_seen(network, broken):
        network(TOKENS)
    assert network.config._attn_implementation == implementation
    torch.testing.assert_close(network(TOKENS).logits, before)


def broken(*_):
    raise RuntimeError("mine")


def test_layers_behind_the_deepest_are_not_run():
    network = tiny("gpt2")
    seen = []
    network.transformer.h[1].register_forward_pre_hook(lambda *_: seen.append(1))
    read_all_heads(network, TOKENS, layers=[0], progress=False)
    assert not seen


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 9, "head": 0}, IndexError, "layer is 9; the model has layers 0 to 1"),
        ({"layer": 0, "head": 2}, IndexError, "head is 2; a layer has heads 0 to 1"),
    ],
)
def test_a_head_that_is_not_there_is_named(options, error, message):
    with pytest.raises(error, match=message):
        read_heads(tiny("llama"), TOKENS, progress=False, **options)


def test_what_does_not_fit_or_was_not_read_is_refused():
    with pytest.raises(ValueError, match="ask for fewer"):
        read_all_heads(tiny("llama"), TOKENS, memory=100)
    read = read_all_heads(tiny("llama"), TOKENS, layers=[1], progress=False)
    with pytest.raises(ValueError, match=r"layer=0: wanted one that was read, of \(1,\)"):
        read.of(0, 0)
