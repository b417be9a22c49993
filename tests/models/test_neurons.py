"""Neurons are what the MLP computes with, in every architecture; bad requests say what is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import D_MLP, D_MODEL, FAMILIES, N_LAYERS

from rotate_core import Neurons, load_model
from rotate_core.models.architectures import ARCHITECTURES
from rotate_core.text.sites import mlp_of


def test_every_architecture_is_tested() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.fixture(params=FAMILIES)
def family(request, checkpoints) -> SimpleNamespace:
    """A model of each family as we see it, and as transformers runs it; layer 1 of it."""
    ours = load_model(checkpoints(request.param))
    theirs = ours.transformers()
    names = ours.checkpoint.architecture
    mlp = mlp_of(theirs, 1)
    norm = None
    if names.mlp_norm is not None:
        norm = theirs.get_submodule(names.mlp_norm.format(layer=1).removesuffix(".weight"))
    activation = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None) or mlp.act
    x = torch.randn(7, D_MODEL, generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(ours=ours, mlp=mlp, norm=norm, activation=activation, x=x)


@torch.no_grad()
def test_the_three_vectors_give_the_mlp(family) -> None:
    vectors = {kind: family.ours.neurons(1, kind).vectors for kind in family.ours.kinds}
    assert all(v.shape == (D_MLP, D_MODEL) and v.is_contiguous() for v in vectors.values())
    read = family.x @ vectors["in"].T
    if "gate" in vectors:
        activations = family.activation(family.x @ vectors["gate"].T) * read
    else:
        activations = family.activation(read)
    torch.testing.assert_close(activations @ vectors["out"], family.mlp(family.x))


@torch.no_grad()
def test_folding_the_norm_moves_its_gain_into_what_a_neuron_reads_by(family) -> None:
    if family.norm is None:
        plain, folded = (family.ours.neurons(1, "in", fold_norm=fold) for fold in (False, True))
        assert torch.equal(plain.vectors, folded.vectors)
        return
    bias = getattr(family.norm, "bias", None)
    seen = family.norm(family.x) - (0 if bias is None else bias)
    centre = family.x.mean(dim=1, keepdim=True) if bias is not None else 0
    normalised = family.x - centre
    normalised = normalised / normalised.pow(2).mean(dim=1, keepdim=True).sqrt()
    for kind in family.ours.kinds[:-1]:
        plain = family.ours.neurons(1, kind)
        folded = family.ours.neurons(1, kind, fold_norm=True)
        assert folded.fold_norm
        assert not torch.allclose(plain.vectors, folded.vectors, rtol=1e-2)
        torch.testing.assert_close(
            normalised @ folded.vectors.T, seen @ plain.vectors.T, rtol=1e-3, atol=1e-4
        )
    plain, folded = (family.ours.neurons(1, "out", fold_norm=fold) for fold in (False, True))
    assert torch.equal(plain.vectors, folded.vectors)


def test_indices_choose_neurons_in_their_order(family) -> None:
    for kind in family.ours.kinds:
        some = family.ours.neurons(2, kind, [40, 3, 4])
        assert (some.layer, some.kind, some.indices, len(some)) == (2, kind, (40, 3, 4), 3)
        assert torch.equal(some.vectors, family.ours.neurons(2, kind).vectors[[40, 3, 4]])


@pytest.mark.parametrize(
    "indices", [(5, 9), range(5, 10, 4), np.array([5, 9]), torch.tensor([5, 9])]
)
def test_indices_may_be_any_integers(checkpoints, indices) -> None:
    assert load_model(checkpoints("llama")).neurons(0, "in", indices).indices == (5, 9)


@pytest.mark.parametrize(
    ("layer", "kind", "indices", "error", "message"),
    [
        (N_LAYERS, "in", None, IndexError, "layer is 3; the model has layers 0 to 2"),
        (-1, "in", None, IndexError, "layer is -1; the model has layers 0 to 2"),
        (1.0, "in", None, TypeError, "layer is 1.0; give an integer"),
        (True, "in", None, TypeError, "layer is True; give an integer"),
        (1, "up", None, ValueError, r"no such kind; choose from \('gate', 'in', 'out'\)"),
        (1, "in", [], ValueError, "indices is empty"),
        (1, "in", 5, TypeError, "indices is 5; give a list"),
        (1, "in", [1.5], TypeError, "index is 1.5; give an integer"),
        (1, "in", "37", TypeError, "index is '3'; give an integer"),
        (1, "in", [D_MLP], IndexError, "no neuron 48; a layer has neurons 0 to 47"),
        (1, "in", [-1], IndexError, "no neuron -1"),
        (1, "in", [7, 8, 7], ValueError, "neuron 7 stands twice"),
    ],
)
def test_bad_requests(checkpoints, layer, kind, indices, error, message) -> None:
    with pytest.raises(error, match=message):
        load_model(checkpoints("llama")).neurons(layer, kind, indices)


def test_an_ungated_model_has_no_gate(checkpoints) -> None:
    with pytest.raises(ValueError, match=r"its MLP is not gated; choose from \('in', 'out'\)"):
        load_model(checkpoints("gpt2")).neurons(0, "gate")


def test_a_weight_that_is_not_finite_is_named(damaged) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 12] = torch.nan
    save_file(tensors, damaged / "model.safetensors")
    model = load_model(damaged)
    with pytest.raises(ValueError, match=r"'out' of neuron 12, layer 1, .*: inf or nan"):
        model.neurons(1, "out")
    assert len(model.neurons(1, "out", [11, 13])) == 2


def test_a_tensor_of_another_shape_than_configured_is_named(damaged) -> None:
    tensors = load_file(damaged / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(ValueError, match=r"shape \(47, 32\); by config.json it has \(48, 32\)"):
        load_model(damaged).neurons(1, "in")


def test_neurons_need_an_index_each() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\) for 2 indices"):
        Neurons(torch.zeros(3, 4), model="m", layer=0, kind="in", indices=(1, 2))
