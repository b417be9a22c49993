"""An ablated model goes to a hub with a card, and is loaded from there; a server stands in."""

from __future__ import annotations

import pytest
import torch
import yaml
from stand_in_hub import stand_in_hub

from rotate_core import load_model, save_ablated
from rotate_core.text.share import push_model


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


def test_what_has_no_card_is_not_pushed(checkpoints) -> None:
    with pytest.raises(FileNotFoundError, match=r"no README\.md: give what save_ablated wrote"):
        push_model(checkpoints("llama"), "someone/model")
