"""Every notebook keeps to the form that the book and papermill rely on."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

from book.execute import parameter_names, parameters_cell
from rotate_core import PAPER, Settings
from rotate_core.atlas.manifest import Manifest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PROFILES = {path.stem: path for path in sorted((ROOT / "notebooks/profiles").glob("*.yaml"))}
CHAPTERS = [
    Path(chapter["file"]).name
    for part in yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))["parts"]
    for chapter in part["chapters"]
    if chapter["file"].startswith("executed/")
]
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_book_has_a_chapter_for_each_notebook():
    assert list(NOTEBOOKS) == sorted(CHAPTERS)


def test_the_profiles_of_the_readme_are_there():
    assert set(PROFILES) >= {"quick", "default", "full", "paper-gemma", "paper-llama"}


def test_the_full_profile_is_larger_than_the_default_in_all_that_it_sets():
    default = {}
    for name in NOTEBOOKS:
        for statement in ast.parse(parameters_cell(read(name)).source).body:
            default[statement.targets[0].id] = ast.literal_eval(statement.value)
    full = yaml.safe_load(PROFILES["full"].read_text(encoding="utf-8"))
    assert full.pop("model") == default["model"]
    assert full.pop("run") == "full"
    assert full.pop("layers") != default["layers"]
    assert full.pop("side_layer") != default["side_layer"], "no size: one of the layers"
    assert full.pop("method_neurons") * len(full.pop("method_layers")) > default["method_neurons"]
    for name, value in full.items():
        size, least = (len(x) if isinstance(x, list) else x for x in (value, default[name]))
        assert size is None or size > least, name


@each_notebook
def test_is_named_by_number_and_claim(name: str):
    number, _, claim = name.partition("_")
    assert number.isdecimal()
    assert len(number) == 2
    assert claim


@each_notebook
def test_is_kept_without_outputs_and_with_a_kernel(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@each_notebook
def test_opens_with_a_question_alone(name: str):
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.count("\n") == 0, "the answer comes next, and its figure"
    assert first.source.startswith("# ")
    assert first.source.endswith("?"), "what came out is for the answer to say"


@each_notebook
def test_parameters_are_commented_literals(name: str):
    notebook = read(name)
    source = parameters_cell(notebook).source
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        ast.literal_eval(statement.value)
    lines = source.splitlines()
    assert len(parameter_names(notebook)) == len(lines), "one `name = literal  # comment` a line"
    assert all("  # " in line for line in lines)


@each_notebook
def test_takes_its_parameters_and_ends_by_writing_its_record(name: str):
    cells = code_cells(read(name))
    behind = cells.index(parameters_cell(read(name))) + 1
    assert f'Chapter("{name}", globals()' in cells[behind].source
    assert "chapter.write(" in cells[-1].source


@each_notebook
def test_prose_with_figures_reads_well_in_jupyter(name: str):
    """A figure is filled in by chapter.say, whose code is hidden; only captions are glued."""
    for cell in read(name).cells:
        assert "{glue:" not in cell.source
        if cell.cell_type == "code" and cell.source.startswith("chapter.say("):
            assert cell.metadata.jupyter.source_hidden


@each_notebook
def test_every_labelled_figure_has_a_caption_and_alt_text(name: str):
    for cell in code_cells(read(name)):
        options = cell.metadata.get("mystnb", {})
        if "figure" in options:
            assert options["figure"]["name"].startswith("fig-")
            assert options["figure"]["caption"].startswith("**"), "the finding first, in bold"
            assert options["image"]["alt"]


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_only_what_some_notebook_asks_for(profile: str):
    values = yaml.safe_load(PROFILES[profile].read_text(encoding="utf-8"))
    known = {parameter for name in NOTEBOOKS for parameter in parameter_names(read(name))}
    assert "model" in values
    assert set(values) - {"model"} <= known


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"default"}))
def test_a_profile_keeps_what_it_computes_under_its_own_name(profile: str):
    assert yaml.safe_load(PROFILES[profile].read_text(encoding="utf-8"))["run"] == profile


@pytest.mark.parametrize(("name", "n_layers"), [("paper-gemma", 26), ("paper-llama", 32)])
def test_the_papers_exceptions_are_understood(name, n_layers):
    values = yaml.safe_load(PROFILES[name].read_text(encoding="utf-8"))
    settings = Settings(solver="householder", moments="scaled", threshold=values["threshold"])
    manifest = Manifest(
        model="", checksum="", settings=settings, n_channels=50, seed=0, null=0, statistic="core",
        side="auto", fold_norm=False, versions={}, exceptions=values["exceptions"],
    )  # fmt: skip
    manifest.check_exceptions(n_layers)
    if name == "paper-gemma":
        found = manifest.settings_of(18, "out"), manifest.settings_of(4, "out")
        assert (found[0].lambda_kurtosis, found[1].learning_rate) == (0.5, 2e-3)
        assert manifest.settings_of(18, "gate") == settings == PAPER
    else:
        found = manifest.settings_of(22, "in")
        assert (found.threshold, found.learning_rate) == (8.0, 2e-3)
        n_channels = {n: manifest.n_channels_of(n, "gate") for n in range(n_layers)}
        assert {n for n, c in n_channels.items() if c == 30} == {8, 16, 26}
        assert set(n_channels.values()) == {30, 50}
