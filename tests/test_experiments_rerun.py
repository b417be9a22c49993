"""A chapter run twice gives the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from book.execute import execute

ROOT = Path(__file__).parents[1]
SMALL = {
    "layers": [29],
    "reconstruction_kinds": ["out"],
    "reconstruction_neurons": 2,
    "reconstruction_channels": 3,
    "stability_channels": 2,
    "stability_seeds": 2,
}


@pytest.mark.slow
@pytest.mark.real_model
def test_a_chapter_run_twice_gives_the_same_figures(tmp_path):
    source = ROOT / "notebooks" / "06_reconstruction.ipynb"
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"../results"', json.dumps(str(tmp_path / "results")))
    runs = []
    for n in range(2):
        copy = tmp_path / f"{n}.ipynb"
        nbformat.write(notebook, copy)
        execute(copy, tmp_path / "executed" / f"{n}.ipynb", SMALL)
        runs.append(json.loads((tmp_path / "results" / "06_reconstruction.json").read_text()))
    first, second = runs
    assert first["parameters"]["layers"] == [29]
    for part in ("metrics", "claims", "parameters", "model", "versions"):
        assert first[part] == second[part]
