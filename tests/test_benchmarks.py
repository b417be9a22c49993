"""The benchmark of a GPU from end to end, at toy sizes; what cannot be measured says so."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ["peak", "layer", "precision", "paper", "agreement"]


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")


def test_every_part_runs_and_says_on_what(monkeypatch, tmp_path, capsys) -> None:
    run(monkeypatch, "--tiny", "--out", tmp_path / "gpu.json")
    parts = json.loads((tmp_path / "gpu.json").read_text())
    assert list(parts) == PARTS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert {entry["figures"]["device"] for entry in parts.values()} == {device}
    assert all("processor" in entry["hardware"] for entry in parts.values())
    rows = {part: entry["figures"]["rows"] for part, entry in parts.items()}
    assert set(rows["peak"]["tiny"]) == {"float32", "tf32", "bfloat16"}
    assert rows["precision"]["tiny, full"]["share_equal"] == 1
    assert "seconds" in rows["precision"]["tiny, bfloat16"]
    layer, paper = rows["layer"]["tiny"], rows["paper"]
    seconds = layer["layer_neurons"] * 50 / layer["neuron_channels_per_second"]
    assert layer["layer_minutes"] == pytest.approx(seconds / 60)
    steps = paper["paper_steps_to_its_end"] / paper["paper_steps_measured"]
    projected = paper["paper_seconds_measured"] * steps
    assert paper["paper_seconds_projected"] == pytest.approx(projected)
    assert rows["agreement"]["synthetic, 32 x 960"]["share_with_cosine_above_0.999"] > 0.5


def test_without_a_gpu_nothing_is_measured_and_what_was_stays(
    monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    table = tmp_path / "gpu.json"
    table.write_text(json.dumps({"peak": {"figures": "measured elsewhere"}}))
    run(monkeypatch, "--out", table)
    figures = {part: entry["figures"] for part, entry in json.loads(table.read_text()).items()}
    assert figures == dict.fromkeys(PARTS, "not measured") | {"peak": "measured elsewhere"}
