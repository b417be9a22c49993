"""A chapter run twice gives the same figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from book.execute import execute

ROOT = Path(__file__).parents[2]
SMALL = {
    "layers": [29],
    "reconstruction_kinds": ["out"],
    "reconstruction_neurons": 2,
    "reconstruction_channels": 3,
    "stability_channels": 2,
    "stability_seeds": 2,
    "stability_null_seeds": 2,
    "atlas_neurons": 2,
    "atlas_channels": 2,
    "atlas_null": 4,
}
PARTS = ("metrics", "claims", "parameters", "model", "versions")


def run(name: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Execute a copy of a notebook that writes its results into a folder of its own."""
    copy = folder / "notebooks" / f"{name}.ipynb"  # so that ../results is the folder's own
    copy.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / copy.name, copy)
    execute(copy, folder / "executed" / f"{name}.ipynb", values)
    (record,) = folder.glob(f"results/*/*/{name}.json")
    return json.loads(record.read_text(encoding="utf-8"))


def untimed(result: Any) -> Any:
    """All that is not a measured time."""
    if isinstance(result, dict):
        return {key: untimed(part) for key, part in result.items() if "seconds" not in key}
    return [untimed(part) for part in result] if isinstance(result, list) else result


def test_only_times_are_left_out():
    result = {"a": [{"seconds_per_channel": 1, "b": 2}], "seconds": 3}
    assert untimed(result) == {"a": [{"b": 2}]}


@pytest.mark.slow
@pytest.mark.real_model
def test_a_chapter_run_twice_gives_the_same_figures(tmp_path):
    runs = []
    for n in range(2):
        folder = tmp_path / str(n)
        folder.mkdir()
        runs.append(run("06_reconstruction", SMALL, folder))
    first, second = runs
    assert first["parameters"]["layers"] == [29]
    for part in PARTS:
        assert untimed(first[part]) == untimed(second[part])


@pytest.mark.book
@pytest.mark.parametrize("name", ["05_kurtosis", "06_reconstruction"])
def test_a_chapter_of_the_book_gives_its_figures_again(name, tmp_path):
    """With the profile and the atlas of the book that was made last, so quick for a quick book."""
    profile = ROOT / "book/executed/parameters.yaml"
    assert profile.exists(), "no book: run `make book` first"
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    results = Path("results", values["model"], values.get("run", "default"))
    made = ROOT / results / f"{name}.json"
    assert made.exists(), "no book: run `make book` first"
    shutil.copytree(ROOT / results / "atlas", tmp_path / results / "atlas")
    book, again = json.loads(made.read_text(encoding="utf-8")), run(name, values, tmp_path)
    for part in PARTS:
        assert untimed(again[part]) == untimed(book[part]), part
