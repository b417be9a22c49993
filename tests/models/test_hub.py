"""Of a model on the hub only what is needed is fetched; this hub is a server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_in_hub import GATED, StandIn, commit, empty_cache, stand_in_hub

from rotate_core import load_model

MODEL = "models/org/model"


def files(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint) -> Path:
    """In many shards."""
    return make_checkpoint("llama", shard_size="20KB")


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub with one model."""
    with stand_in_hub(monkeypatch, tmp_path / "hub") as hub:
        hub.branches[MODEL, "main"] = files(checkpoint)
        yield hub


def test_only_what_is_needed_is_fetched(hub, checkpoint) -> None:
    at = commit(hub.branches[MODEL, "main"])
    model = load_model("org/model")
    assert hub.sent == ["config.json"]
    assert (model.name, model.n_layers, model.checksum) == ("org/model", 3, at)
    neurons = model.neurons(1, "in", [3])
    shard = model.checkpoint.files["model.layers.1.mlp.up_proj.weight"]
    assert hub.sent == ["config.json", "model.safetensors.index.json", shard]
    expected = load_model(checkpoint).neurons(1, "in", [3])
    assert torch.equal(neurons.vectors, expected.vectors)


def test_what_was_fetched_is_there_offline(hub, monkeypatch) -> None:
    load_model("org/model").neurons(1, "in")
    fetched = list(hub.sent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = load_model("org/model")
    model.neurons(1, "in")
    assert hub.sent == fetched
    with pytest.raises(ConnectionError, match="neither in the hub's cache nor to be reached"):
        model.vocabulary(2)


def test_the_tokenizer_comes_from_the_hub_too(hub, checkpoint) -> None:
    vocabulary = load_model("org/model").vocabulary(2)
    assert vocabulary.tokens == load_model(checkpoint).vocabulary(2).tokens
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(hub.sent)


def test_a_single_file_is_found(hub, checkpoints) -> None:
    hub.branches[MODEL, "main"] = files(checkpoints("llama"))
    model = load_model("org/model")
    assert len(model.neurons(0, "out")) == model.d_mlp
    assert hub.sent == ["config.json", "model.safetensors"]


def test_a_model_of_pickles_is_refused(hub) -> None:
    held = hub.branches[MODEL, "main"]
    for name in [name for name in held if ".safetensors" in name]:
        del held[name]
    held["pytorch_model.bin"] = b"pickle"
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors .* not read"):
        load_model("org/model").neurons(0, "in")


def test_a_gated_model_says_what_to_do(hub) -> None:
    hub.gated.add("models/org/gated")
    with pytest.raises(PermissionError, match=f"the hub says: {GATED} .* 'hf auth login'"):
        load_model("org/gated")


def test_an_unknown_model_is_named(hub) -> None:
    with pytest.raises(
        ValueError, match=r"no directory 'org/nothing' here and no such model on the"
    ):
        load_model("org/nothing")


def test_without_a_network(tmp_path, monkeypatch) -> None:
    empty_cache(monkeypatch, tmp_path)
    with pytest.raises(ConnectionError, match=r"no directory 'org/model' here, and config\.json"):
        load_model("org/model")
