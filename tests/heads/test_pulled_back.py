"""A direction pulled back is the gradient of its coordinate, in every family."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import FAMILIES

from rotate_core import calibrate, decompose, load_model
from rotate_core.heads import pull_back, random_directions
from rotate_core.heads.reading import attention_seen


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_direction_is_the_gradient_at_position_0(checkpoints, family, side):
    model = load_model(checkpoints(family))
    network, layer, head = model.transformers(), 1, 1
    names = model.checkpoint.architecture
    found, inputs = {}, []

    def see(module, query, key, _):
        if module.layer_idx == layer:
            vectors = query if side == "query" else key
            found["number"] = 0 if vectors.shape[1] == 1 else head
            found["vector"] = vectors[0, found["number"], 0]

    block = network.get_submodule(names.query.name.format(layer=layer).rsplit(".", 3)[0])
    block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with attention_seen(network, see):
        network(torch.tensor([[3]]), use_cache=False)
    v = torch.randn(16, generator=torch.Generator().manual_seed(0))
    if names.head_norms is not None:  # what it divides by does not change beside the vector itself
        name = names.head_norms[["query", "key"].index(side)].format(layer=layer)
        gain = names.norm_offset + model.checkpoint.tensor(name)
        gain = gain if len(gain) == 16 else gain.view(-1, 16)[found["number"]]
        raw = found["vector"].detach() / gain
        v -= raw * (raw @ (gain * v)) / (raw @ raw) / gain
    (gradient,) = torch.autograd.grad(found["vector"] @ v, inputs[0])
    row = pull_back(model, v.unsqueeze(1), layer=layer, head=head, side=side).vectors[0]
    x = inputs[0][0, 0].detach()  # the same of the norm in front of the attention
    away = [x, torch.ones_like(x)] if family in ("gpt2", "gpt_neox") else [x]
    if names.attention_norm is not None:
        basis = torch.linalg.qr(torch.stack(away, 1))[0]
        row = row - basis @ (basis.T @ row)
    assert torch.cosine_similarity(row, gradient[0, 0], dim=0) > 1 - 1e-4


def test_directions_are_decomposed_and_calibrated(checkpoints):
    model = load_model(checkpoints("llama"))
    at = {"layer": 1, "head": 1, "side": "key"}
    directions = pull_back(model, torch.eye(16)[:, :2], **at)
    assert (directions.kind, directions.layer, len(directions)) == ("key of head 1", 1, 2)
    null = random_directions(model, 20, **at)
    again = random_directions(model, 20, **at)
    assert torch.equal(null.vectors, again.vectors)
    own, other = (
        decompose(x, model.vocabulary(1), n_channels=1, progress=False) for x in (directions, null)
    )
    assert calibrate(own, other).p_value.shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"side": "value"}, ValueError, "side='value': wanted one of query, key"),
        ({"head": 2}, IndexError, "head is 2; a layer has heads 0 to 1"),
        ({"layer": 3}, IndexError, "layer is 3"),
        ({"directions": torch.eye(3)}, ValueError, r"of shape \(3, 3\): wanted \(16, n\)"),
    ],
)
def test_bad_input_is_named(checkpoints, change, error, message):
    options = {"directions": torch.eye(16), "layer": 0, "head": 0, "side": "key"} | change
    with pytest.raises(error, match=message):
        pull_back(load_model(checkpoints("llama")), **options)
