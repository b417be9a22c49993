"""What differs between two checkpoints: nothing of one with itself, and what was planted."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import D_MODEL

from rotate_core import Settings, load_model
from rotate_core.atlas import Atlas
from rotate_core.atlas.diff import correlations, diff, matched, shared_tokens

BUILD = {
    "layers": [1],
    "kinds": ["out"],
    "neurons": [3, 5, 8],
    "n_channels": 2,
    "settings": Settings(threshold=2.5),
    "progress": False,
}
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def before(checkpoints, tmp_path_factory) -> Atlas:
    folder = tmp_path_factory.mktemp("before") / "atlas"
    return Atlas.build(folder, load_model(checkpoints("llama")), **BUILD)


@pytest.fixture
def edited(before, tmp_path):
    """A function that gives the atlas of the same checkpoint after an edit of its out weights."""

    def build(edit, **options) -> Atlas:
        shutil.copytree(before.model.path, tmp_path / "model")
        tensors = load_file(tmp_path / "model/model.safetensors")
        edit(tensors[DOWN].T)
        save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
        return Atlas.build(tmp_path / "atlas", load_model(tmp_path / "model"), **BUILD | options)

    return build


def test_a_checkpoint_has_not_changed_from_itself(before):
    found = diff(before, before, progress=False)
    assert found.neurons.neuron.tolist() == [3, 5, 8]
    assert (found.neurons.weight_change < 1e-12).all()
    assert (found.channels.change < 1e-6).all()
    assert (found.channels.channel == found.channels.after).all()
    assert (found.neurons[["p_value", "q_value"]] == 1).all().all()
    assert not found.neurons.lost.map(len).any()
    assert not found.neurons.gained.map(len).any()


def test_a_neuron_that_became_another_is_found(before, edited):
    def edit(rows):
        rows[5] = rows[40]

    after = edited(edit, neurons=[3, 5, 11])
    found = diff(before, after, n_null=9, progress=False)
    assert found.neurons.neuron.tolist() == [3, 5], "those in common"
    same, other = found.neurons.to_dict("records")
    assert same["channel_change"] < 1e-6
    assert same["p_value"] == 1
    old, new = (before.model.neurons(1, "out").vectors[i].double() for i in (5, 40))
    cosine = torch.cosine_similarity(old, new, dim=0).abs()
    assert other["weight_change"] == pytest.approx(float(1 - cosine), abs=1e-6)
    assert other["channel_change"] > 0.1
    assert other["lost"]
    assert other["gained"]
    assert other["null_change"] > 0.1, "a turn as far changes channels as well"
    assert len(found.channels) == 4


def test_of_random_turns_p_values_are_uniform(checkpoints, edited, tmp_path):
    def edit(rows):
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(5))
        rows += 0.3 * noise * rows.norm(dim=1, keepdim=True) / D_MODEL**0.5

    every = {"neurons": None, "n_channels": 1}
    model = load_model(checkpoints("llama"))
    before = Atlas.build(tmp_path / "before", model, **BUILD | every)
    found = diff(before, edited(edit, **every), n_null=9, progress=False).neurons
    assert (found.weight_change > 0.01).all()
    p = found.p_value.sort_values().to_numpy()
    uniform = (torch.arange(len(p)) + 0.5).numpy() / len(p)
    assert abs(p - uniform).max() < 0.2, "within the 95% band of 48 draws"
    assert (found.q_value > 0.1).all()


def test_scale_and_order_of_channels_do_not_count(before):
    channels = before.channels(layer=1, kind="out")
    turned = dataclasses.replace(channels, vectors=-3 * channels.vectors.flip(1))
    u = channels.vocabulary.projection
    u = (u - u.mean(1, keepdim=True)).double()
    overlaps = (u @ u.T,) * 3
    r = correlations(channels, turned, overlaps)
    assert matched(r).tolist() == [[1, 0]] * 3
    best = r.gather(2, matched(r).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(best, torch.ones_like(best))
    logits = channels.vectors.double() @ u
    expected = torch.corrcoef(logits[0])[0, 1].abs()
    torch.testing.assert_close(correlations(channels, channels, overlaps)[0, 0, 1], expected)


def test_what_cannot_be_compared_is_named(before, edited):
    after = edited(lambda rows: None, n_channels=1)
    with pytest.raises(ValueError, match=r"n_channels is 2 in .*, 1 in .*: wanted atlases made"):
        diff(before, after)
    with pytest.raises(ValueError, match="n_null=0: wanted at least 1"):
        diff(before, before, n_null=0)
    with pytest.raises(ValueError, match="1 tokens are the same, of 4 before and 3 after"):
        shared_tokens(("a", "b", "c", "d"), ("a", "c", "b"))
    assert shared_tokens(("a", "b", "c"), ("a", "x", "c", "d")).tolist() == [0, 2]


def test_no_neuron_in_common_is_named(before, edited):
    with pytest.raises(ValueError, match="have no neuron of one layer and kind in common"):
        diff(before, edited(lambda rows: None, neurons=[20, 21]), progress=False)
