"""A pass for MLP inputs ends behind the deepest layer that is read, and leaves nothing behind."""

import pytest
import torch
from tiny_models import LAYERS, TOKENS, tiny

from rotate_core.text import activations


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_behind_the_deepest_one_are_not_run(family):
    model = tiny(family)
    seen = []
    for layer in range(LAYERS):
        activations.mlp_of(model, layer).register_forward_hook(
            lambda *_, layer=layer: seen.append(layer)
        )
    first = activations.mlp_inputs(model, TOKENS, {0: None}, batch=1, progress=False)
    assert set(seen) == {0}
    seen.clear()
    each = activations.mlp_inputs(model, TOKENS, {0: None, 1: None}, batch=1, progress=False)
    assert set(seen) == {0, 1}
    seen.clear()
    torch.testing.assert_close(first[0], each[0])
    hidden = model(TOKENS).logits
    assert sorted(set(seen)) == list(range(LAYERS)), "the hooks are gone"
    assert hidden.isfinite().all()
