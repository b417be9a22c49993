"""What is read at a site is what transformers computes there; a pass leaves nothing behind."""

import pytest
import torch
from tiny_models import D_MODEL, LAYERS, TOKENS, tiny

from rotate_core.models.architectures import ARCHITECTURES
from rotate_core.text.sites import (
    SITES,
    activation_function,
    at_every_position,
    hook_at,
    mlp_of,
    neuron_activations,
)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def read(request):
    """(a family's model, its activations at every site of every layer)."""
    model = tiny(request.param)
    layers = range(LAYERS)
    options = {"batch": 1, "progress": False}
    return model, {s: at_every_position(model, TOKENS, layers, site=s, **options) for s in SITES}


def part(model, weight, layer):
    """The module that holds the vectors of one kind."""
    return model.get_submodule(weight.name.format(layer=layer).removesuffix(".weight"))


@torch.no_grad()
def test_the_residual_is_what_transformers_calls_a_hidden_state(read):
    model, at = read
    states = model(TOKENS, output_hidden_states=True).hidden_states
    for layer in range(LAYERS - 1):
        torch.testing.assert_close(at["residual"][layer], states[layer + 1])
    names = ARCHITECTURES[model.config.model_type]
    norm = model.get_submodule(names.final_norm.removesuffix(".weight"))
    torch.testing.assert_close(norm(at["residual"][LAYERS - 1]), states[-1])


@torch.no_grad()
def test_the_mlp_reads_a_norm_of_the_residual_stream(read):
    model, at = read
    architecture = ARCHITECTURES[model.config.model_type]
    for layer in range(LAYERS):
        if architecture.mlp_norm is None:  # what is there before the MLP adds its part
            before = at["residual"][layer] - at["mlp_out"][layer]
            torch.testing.assert_close(at["mlp_in"][layer], before, atol=1e-5, rtol=1e-4)
            continue
        middle = []
        norm = model.get_submodule(architecture.mlp_norm.format(layer=layer).rsplit(".", 1)[0])
        handle = norm.register_forward_pre_hook(lambda _, args, into=middle: into.append(args[0]))
        model(TOKENS)
        handle.remove()
        torch.testing.assert_close(at["mlp_in"][layer], norm(middle[0]))


@torch.no_grad()
def test_what_the_mlp_puts_out_is_what_the_residual_loses_without_it(read):
    model, at = read
    for layer in range(LAYERS):
        with hook_at(model, layer, "mlp_out", torch.zeros_like):
            without = at_every_position(model, TOKENS, [layer], site="residual", progress=False)
        lost = at["residual"][layer] - without[layer]
        torch.testing.assert_close(at["mlp_out"][layer], lost, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_neurons_write_what_is_hidden_and_it_follows_from_the_input(read):
    model, at = read
    names = ARCHITECTURES[model.config.model_type]
    for layer in range(LAYERS):
        mlp, x, hidden = mlp_of(model, layer), at["mlp_in"][layer], at["hidden"][layer]
        out = part(model, names.out, layer)
        bias = getattr(out, "bias", None)
        written = hidden @ names.out.rows(out.weight) + (0 if bias is None else bias)
        torch.testing.assert_close(written, mlp(x), atol=1e-5, rtol=1e-4)
        in_, gate = part(model, names.in_, layer), None
        if names.gate is not None:
            gate = names.gate.rows(part(model, names.gate, layer).weight)
        if getattr(in_, "bias", None) is not None:
            in_.bias.zero_()
            hidden = activation_function(model)(in_(x))
        a = neuron_activations(x, gate, names.in_.rows(in_.weight), activation_function(model))
        torch.testing.assert_close(a, hidden, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("site", SITES)
def test_layers_behind_the_deepest_one_are_not_run(family, site):
    model = tiny(family)
    seen = []
    for layer in range(LAYERS):
        mlp_of(model, layer).register_forward_pre_hook(lambda *_, layer=layer: seen.append(layer))
    first = at_every_position(model, TOKENS, [0], site=site, batch=1, progress=False)
    assert set(seen) == {0}
    seen.clear()
    each = at_every_position(model, TOKENS, [1, 0], site=site, batch=1, progress=False)
    assert set(seen) == {0, 1}
    seen.clear()
    torch.testing.assert_close(first[0], each[0])
    assert model(TOKENS).logits.isfinite().all()
    assert sorted(set(seen)) == list(range(LAYERS)), "the hooks are gone"


def test_some_places_of_the_windows_are_kept():
    model = tiny("llama")
    whole, inner = (
        at_every_position(model, TOKENS, [0], places=places, progress=False)[0]
        for places in (slice(None), slice(1, -1))
    )
    assert torch.equal(inner, whole[:, 1:-1])


def test_rows_are_products_with_the_input_and_hooks_go_away():
    model = tiny("llama")
    rows = torch.randn(3, D_MODEL)
    x = at_every_position(model, TOKENS, [0, 1], progress=False)
    products = at_every_position(model, TOKENS, [1], rows={1: rows}, batch=1, progress=False)
    torch.testing.assert_close(products[1], x[1] @ rows.T)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_go_away_after_an_exception():
    model = tiny("llama")
    with pytest.raises(IndexError):
        at_every_position(model, TOKENS + 10_000, [0], progress=False)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_too_much_memory_is_refused():
    with pytest.raises(ValueError, match="ask for fewer"):
        at_every_position(tiny("llama"), TOKENS, [0], memory=100)


@pytest.mark.parametrize(
    ("layer", "site", "error", "message"),
    [
        (0, "resid_post", ValueError, "site='resid_post': wanted one of mlp_in, hidden"),
        (9, "residual", IndexError, "layer is 9; the model has layers 0 to 1"),
        (-1, "hidden", IndexError, "layer is -1"),
        (1.5, "mlp_out", TypeError, "layer"),
    ],
)
def test_a_site_that_is_not_there_is_named(layer, site, error, message):
    with pytest.raises(error, match=message):
        hook_at(tiny("llama"), layer, site, lambda x: None)


def test_what_is_no_model_of_transformers_is_named():
    with pytest.raises(TypeError, match="model is a Linear"):
        at_every_position(torch.nn.Linear(2, 2), TOKENS, [0])
