"""What was ablated or is steered goes to a hub with a card and comes back; a server stands in."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stand_in_hub import stand_in_hub
from tiny_models import D_MODEL, TOKENS, tiny

from rotate_core import load_model, save_ablated, steer
from rotate_core.text import added
from rotate_core.text.share import push_model
from rotate_core.text.steered import read_steering, save_steering, steered


def test_an_ablated_model_there_and_back(checkpoints, tmp_path, monkeypatch) -> None:
    model = load_model(checkpoints("llama"))
    vector = torch.ones(model.d_model)
    taken = [(1, 5, "out", vector), (1, 5, "out", -vector), (2, 3, "in", vector)]
    directory = save_ablated(model, taken, tmp_path / "ablated")
    with stand_in_hub(monkeypatch, tmp_path / "cache") as hub:
        assert push_model(directory, "someone/ablated").endswith("/models/someone/ablated")
        assert hub.private == [True]
        back = load_model("someone/ablated")
        found = back.neurons(2, "in", [3]).vectors
    assert torch.equal(found, load_model(directory).neurons(2, "in", [3]).vectors)
    assert not torch.equal(found, model.neurons(2, "in", [3]).vectors)
    text = hub.branches["models/someone/ablated", "main"]["README.md"].decode()
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "| 1 | out | 5 | 2 |\n| 2 | in | 3 | 1 |\n" in text
    assert model.checksum in text


def test_a_steered_model_there_and_back(checkpoints, tmp_path, monkeypatch) -> None:
    model = load_model(checkpoints("llama"))
    steering = {
        (1, "residual"): 8 * torch.ones(model.d_model),
        (0, "hidden"): torch.rand(model.d_mlp),
    }
    directory = save_steering(model, steering, tmp_path / "steered")
    with stand_in_hub(monkeypatch, tmp_path / "cache") as hub:
        push_model(directory, "someone/steered")
        back = read_steering("someone/steered", model=model)
    assert sorted(back) == sorted(steering)
    assert all(torch.equal(back[where], steering[where]) for where in steering)
    files = hub.branches["models/someone/steered", "main"]
    assert sorted(files) == ["README.md", "steering.safetensors"]
    text = files["README.md"].decode()
    assert yaml.safe_load(text.split("---")[1])["tags"] == [
        "interpretability",
        "rotate",
        "steering",
    ]
    assert f"| 1 | residual | {8 * model.d_model**0.5:.4g} |" in text
    assert model.checksum in text


@torch.no_grad()
def test_a_steered_model_is_what_two_contexts_make_it() -> None:
    network, first, second = tiny("llama"), torch.rand(D_MODEL), torch.rand(D_MODEL)
    bare = network(TOKENS).logits
    with steered(network, {(0, "residual"): first, (1, "mlp_out"): second}):
        both = network(TOKENS).logits
    with steer(network, 0, added(first)), steer(network, 1, added(second), site="mlp_out"):
        assert torch.equal(network(TOKENS).logits, both)
    assert not torch.allclose(bare, both)
    assert torch.equal(network(TOKENS).logits, bare)


@pytest.mark.parametrize(
    ("steering", "error", "message"),
    [
        ({}, ValueError, "there is no vector"),
        ({(9, "residual"): torch.ones(3)}, IndexError, "layer is 9"),
        ({(0, "nowhere"): torch.ones(3)}, ValueError, "site='nowhere': wanted one of"),
        ({(0, "residual"): torch.ones(3)}, ValueError, r"layer 0, residual: shape \(3,\); wanted"),
    ],
)
def test_what_cannot_steer_is_named(checkpoints, tmp_path, steering, error, message) -> None:
    with pytest.raises(error, match=message):
        save_steering(load_model(checkpoints("llama")), steering, tmp_path / "steered")
    assert not list(tmp_path.iterdir())


def test_steering_is_for_one_model_and_of_one_form(checkpoints, tmp_path) -> None:
    llama, gpt2 = (load_model(checkpoints(family)) for family in ("llama", "gpt2"))
    made = save_steering(llama, {(0, "residual"): torch.ones(llama.d_model)}, tmp_path / "steered")
    with pytest.raises(FileExistsError, match="name a folder that does not"):
        save_steering(llama, {(0, "residual"): torch.ones(llama.d_model)}, made)
    with pytest.raises(
        ValueError, match=r"is for tiny-llama with checksum .*; the model tiny-gpt2"
    ):
        read_steering(made, model=gpt2)
    with pytest.raises(FileNotFoundError, match=r"has no steering\.safetensors"):
        read_steering(tmp_path)
    save_file({"w": torch.ones(2)}, made / "steering.safetensors")
    with pytest.raises(ValueError, match=r"'w' is no vector layers\.LAYER\.SITE"):
        read_steering(made)
    (made / "steering.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_steering(made)


def test_what_has_no_card_is_not_pushed(checkpoints) -> None:
    with pytest.raises(FileNotFoundError, match=r"no README\.md beside .*: give what save_ablated"):
        push_model(checkpoints("llama"), "someone/model")
