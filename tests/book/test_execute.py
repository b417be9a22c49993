"""book/execute.py: the cell on the page is the cell that ran, and half a notebook never shows."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest

from book import progress
from book.execute import (
    drop_progress_bars,
    execute,
    fill_parameters,
    on_this_machine,
    parameters_cell,
)

PARAMETERS = """\
model = "smollm2-135m"  # which model
layers = [0, 15]  # where to look
n_neurons = 25  # how many of each kind
"""


def notebook(*sources: str, parameters: str = PARAMETERS) -> nbformat.NotebookNode:
    v4 = nbformat.v4
    cells = [v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})]
    cells += [v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def write(path: Path, *sources: str) -> Path:
    nbformat.write(notebook(*sources), path)
    return path


def test_a_profile_changes_its_own_parameters_and_keeps_comments():
    it = notebook()
    fill_parameters(it, {"n_neurons": 4, "layers": [3], "unknown_here": 1})
    assert parameters_cell(it).source.splitlines() == [
        'model = "smollm2-135m"  # which model',
        "layers = [3]  # where to look",
        "n_neurons = 4  # how many of each kind",
    ]


def test_a_notebook_without_a_parameters_cell_is_refused():
    it = notebook()
    it.cells[0].metadata.tags = []
    with pytest.raises(ValueError, match="0 cells are tagged 'parameters'; wanted exactly 1"):
        fill_parameters(it, {})


def test_the_rest_is_told_at_the_pace_of_this_machine(tmp_path: Path):
    chapters = ["01_a", "02_b", "03_c"]
    seconds = {"01_a": 60.0, "02_b": 120.0, "03_c": 240.0}
    target = tmp_path / "02_b.ipynb"
    line = "Chapter 2 of 3: 02_b"
    assert progress.told(target, chapters, {}, 0) == line
    assert progress.told(target, chapters, seconds, 0) == (
        f"{line}, about 2 min; 7 min left for 3 chapters"
    )
    done = notebook()
    done.metadata["papermill"] = {"duration": 120.0}
    nbformat.write(done, tmp_path / "01_a.ipynb")
    assert progress.told(target, chapters, seconds, 0) == (
        f"{line}, about 4 min; 12 min left for 2 chapters"
    )
    assert "7 min left for 3" in progress.told(target, chapters, seconds, 2**40)


def test_progress_bars_go_and_warnings_stay():
    it = notebook("work()")
    bar = "\r  0%|          | 0/5\r100%|##########| 5/5\n"
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=bar + "UserWarning: look\n"),
        nbformat.v4.new_output("stream", name="stderr", text=bar),
        nbformat.v4.new_output("stream", name="stdout", text="\rkept"),
        nbformat.v4.new_output("execute_result", data={"text/plain": "1"}),
    ]
    it.cells[1].outputs = outputs
    drop_progress_bars(it)
    texts = [output.get("text") for output in it.cells[1].outputs]
    assert texts == ["UserWarning: look\n", "\rkept", None]


def test_executes_with_the_profile_in_the_notebooks_own_folder(tmp_path: Path):
    source = write(tmp_path / "00_it.ipynb", "import os; print(n_neurons, os.getcwd())")
    target = tmp_path / "made" / "00_it.ipynb"
    execute(source, target, {"n_neurons": 3})
    (output,) = nbformat.read(target, as_version=4).cells[1].outputs
    assert output.text == f"3 {tmp_path}\n"
    assert [path.name for path in target.parent.rglob("*.ipynb")] == ["00_it.ipynb"]
    assert {path.name for path in tmp_path.iterdir()} == {"00_it.ipynb", "made"}


def test_a_tqdm_bar_leaves_no_widget_behind(tmp_path: Path):
    code = "from tqdm.auto import tqdm\nfor _ in tqdm(range(2)): pass"
    source = write(tmp_path / "00_it.ipynb", code)
    execute(source, tmp_path / "done.ipynb", {})
    executed = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert executed.cells[1].outputs == []
    assert "widgets" not in executed.metadata


def test_figures_are_kept_as_svg_beside_the_notebook(tmp_path: Path):
    it = notebook("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    it.cells[1].metadata["mystnb"] = {"figure": {"name": "fig-a"}}
    nbformat.write(it, tmp_path / "00_it.ipynb")
    execute(tmp_path / "00_it.ipynb", tmp_path / "made/00_it.ipynb", {})
    assert "<svg" in (tmp_path / "made/00_it/fig-a.svg").read_text()
    (output,) = nbformat.read(tmp_path / "made/00_it.ipynb", as_version=4).cells[1].outputs
    assert set(output.data) == {"image/png", "text/plain"}


def test_a_failure_leaves_the_target_alone(tmp_path: Path):
    source = write(tmp_path / "00_it.ipynb", "print('before')", "1 / 0")
    target = tmp_path / "made.ipynb"
    target.write_text("an earlier run")
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        execute(source, target, {})
    assert target.read_text() == "an earlier run"
    assert (tmp_path / "unfinished/made.ipynb").exists()


def test_without_a_gpu_the_cpu_is_taken_and_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert on_this_machine({"device": "cuda", "a": 1}) == {"device": None, "a": 1}
    assert capsys.readouterr().out == "There is no CUDA GPU for device: cuda; the CPU is taken.\n"
    assert on_this_machine({"device": None}) == {"device": None}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert on_this_machine({"device": "cuda"}) == {"device": "cuda"}
    assert not capsys.readouterr().out
