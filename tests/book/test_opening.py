"""The README's four lines are made of figures, and figures come out of the chapters' records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from book import opening


def test_the_readme_says_what_the_kept_figures_say() -> None:
    readme = opening.README.read_text("utf-8")
    assert opening.filled(readme, json.loads(opening.KEPT.read_text("utf-8"))) == readme
    assert "book/_static/neuron.svg" in readme
    assert opening.PICTURE.exists()


def test_figures_come_out_of_the_records(tmp_path: Path) -> None:
    group = {"neurons": 4, "kurtosis": 1.0}
    estimate = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 4, "n_clusters": 4}
    text = {what: {"over matched vectors": estimate} for what in ("q < 0.1", "others")}
    names = "our_objective", "our_seconds", "paper_objective", "paper_seconds"
    solver = dict.fromkeys(names, 2.0)
    metrics = {
        "02_solver": solver,
        "04_null": {
            "text": text, "by_layer_and_kind": [group | {"null_kurtosis": k} for k in (0.5, 2.0)],
            "channels": 24, "share_significant": 0.125, "share_significant_first": 0.5,
        },
        "11_scoreboard": {"verdict": {"a": "proxy", "b": "reproduced", "c": "not run"}},
    }  # fmt: skip
    for name, found in metrics.items():
        record = {"metrics": found, "model": {"name": "toy"}}
        record["parameters"] = {"solver_neurons": 8, "solver_steps": 10_000}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    figures = opening.came_out(tmp_path, "quick")
    said = " ".join(opening.filled(f"a{opening.BEGIN}x{opening.END}b", figures).split())
    assert "first channels of 8 weight vectors 50% stand out" in said
    assert "In 1 of 2 layers and kinds" in said
    assert "1.00 [0.50, 1.50] standard deviations" in said
    assert "Of 2 claims of the paper that were measured, these came out: 1 *proxy*, 1 *repr" in said
    (tmp_path / "04_null.json").unlink()
    with pytest.raises(FileNotFoundError, match="04_null"):
        opening.came_out(tmp_path, "quick")
