"""Every notebook keeps to the form that the book and papermill rely on."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

from book.execute import parameter_names, parameters_cell

ROOT = Path(__file__).parents[1]
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


def test_the_book_has_a_chapter_for_each_notebook_in_order():
    assert list(NOTEBOOKS) == CHAPTERS


def test_the_profiles_of_the_readme_are_there():
    assert set(PROFILES) >= {"quick", "default", "paper-gemma", "paper-llama"}


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
def test_opens_with_a_title(name: str):
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


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
def test_ends_by_writing_its_results(name: str):
    assert name in code_cells(read(name))[-1].source
    assert "results" in code_cells(read(name))[-1].source


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
