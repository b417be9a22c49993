"""A profile says beforehand what it needs, and stops where that is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from book import needs
from rotate_core import load_model

VALUES = {
    "layers": [0, 2], "atlas_channels": 3, "atlas_neurons": 5, "atlas_null": 7, "x_tokens": 100,
}  # fmt: skip


def test_sizes_follow_from_the_checkpoint_and_the_profile(make_checkpoint: Any) -> None:
    model = load_model(make_checkpoint("llama"))
    weights, here = needs.weights_of(model)
    wanted = needs.needs(VALUES, model, weights, here)
    assert wanted.fetched == 0
    assert wanted.neuron_channels == 3 * 2 * 3 * (5 + 7)
    kept = 100 * 2 * max(model.d_mlp, model.d_model)
    assert wanted.disk == 4 * (wanted.neuron_channels * model.d_model + kept)
    far = needs.needs(VALUES, model, weights, set())
    assert far.fetched == sum(weights.values()) == far.disk - wanted.disk


def test_what_is_too_little_is_named(
    make_checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"model: {make_checkpoint('llama')}\nlayers: [0]\n")
    monkeypatch.setattr(sys, "argv", ["needs", str(profile)])
    needs.main()
    assert "to fetch" in capsys.readouterr().out
    memory = SimpleNamespace(total=1_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    with pytest.raises(SystemExit, match=r"of memory, and 1\.00MB are there\. Nothing was begun"):
        needs.main()


def test_hours_are_said_only_where_somebody_has_measured(
    make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(make_checkpoint("llama"))
    monkeypatch.setattr(needs, "_benchmark", lambda name: {})
    assert needs.hours(10, model, "cuda") is None
    assert needs.hours(10, model, None) is None
