"""Execute one notebook for the book: a profile's values in, all of its outputs or nothing out.

    python -m book.execute notebooks/01_one_neuron.ipynb book/executed/01_one_neuron.ipynb \
        --parameters notebooks/profiles/quick.yaml

Papermill's own way is a second parameters cell below the defaults, so that a page shows values that
did not run. Here the profile's values are written into the one cell tagged ``parameters``: the cell
on the page is the cell that ran. Values that a notebook has no parameter for are left alone, since
notebooks share a profile; a test holds that every value has a notebook that uses it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
import yaml
from papermill.translators import PythonTranslator
from traitlets.config import Config

from book import progress
from rotate_core.storage import write_whole

ASSIGNMENT = re.compile(r"^(?P<name>[A-Za-z_]\w*) = (?P<value>.*?)(?P<comment>  #.*)?$")
SOURCES = sorted((Path(__file__).parents[1] / "rotate_core").rglob("*.py"))
PLAIN_TQDM = "import tqdm.auto, tqdm.std; tqdm.auto.tqdm = tqdm.std.tqdm"
FORMATS = "--InlineBackend.figure_formats={'png', 'svg'}"
PROGRESS_BAR = re.compile(r"\r[^\r\n]*\n?")  # how tqdm draws on a stream


def parameters_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The one code cell tagged ``parameters``."""
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged 'parameters'; wanted exactly 1")
    return cells[0]


def parameter_names(notebook: nbformat.NotebookNode) -> list[str]:
    """Names assigned in the parameters cell, one ``name = literal  # comment`` a line."""
    lines = parameters_cell(notebook).source.splitlines()
    return [match["name"] for line in lines if (match := ASSIGNMENT.match(line))]


def fill_parameters(notebook: nbformat.NotebookNode, values: dict[str, object]) -> None:
    """Put values in place of the defaults of the same name, comments kept."""

    def filled(line: str) -> str:
        match = ASSIGNMENT.match(line)
        if match is None or match["name"] not in values:
            return line
        literal = PythonTranslator.translate(values[match["name"]])
        return f"{match['name']} = {literal}{match['comment'] or ''}"

    cell = parameters_cell(notebook)
    cell.source = "\n".join(filled(line) for line in cell.source.splitlines())


def on_this_machine(values: dict[str, object]) -> dict[str, object]:
    """A profile's values, with the CPU and a sentence where it wants a GPU that is not here."""
    if not str(values.get("device")).startswith("cuda"):
        return values
    import torch  # not above: it takes seconds, and few profiles name a device

    if torch.cuda.is_available():
        return values
    print(f"There is no CUDA GPU for device: {values['device']}; the CPU is taken.", flush=True)
    return {**values, "device": None}


def drop_progress_bars(notebook: nbformat.NotebookNode) -> None:
    """Take tqdm's drawings out of the outputs; warnings on the same stream stay."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                output.text = PROGRESS_BAR.sub("", output.text)
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "-").strip()]


def take_figures(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Take the figures' SVG out of the outputs, by the figures' names; pages show the PNG."""
    figures = {}
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            svg = output.get("data", {}).pop("image/svg+xml", None)
            if svg and name:
                figures[name] = "".join(svg)
    return figures


def execute(source: Path, target: Path, values: dict[str, object]) -> None:
    """Execute ``source`` from its own folder; ``target`` appears when the last cell has run.

    A notebook that fails is left in ``unfinished/`` beside ``target``, to look into. Figures go to
    a folder of the notebook's name, as SVG.
    """
    notebook = nbformat.read(source, as_version=4)
    fill_parameters(notebook, values)
    unfinished = target.parent / "unfinished" / target.name
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory() as sockets:  # for the kernel, instead of an open port
        kernel = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        papermill.execute_notebook(
            notebook,
            str(unfinished),
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=True,
            stderr_file=sys.stderr,  # where a cell's own progress bar shows, drawn as text:
            extra_arguments=[f"--IPKernelApp.exec_lines={PLAIN_TQDM}", FORMATS],  # no widget
            # A page would load a player for widgets' state; the explorer's HTML needs none.
            config=Config(
                {"KernelManager": kernel, "PapermillNotebookClient": {"store_widget_state": False}}
            ),
        )
    executed = nbformat.read(unfinished, as_version=4)
    drop_progress_bars(executed)
    for name, svg in take_figures(executed).items():
        write_whole(target.with_suffix("") / f"{name}.svg", svg.encode())
    write_whole(target, nbformat.writes(executed).encode())
    unfinished.unlink()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="notebook without outputs")
    parser.add_argument("target", type=Path, help="where the executed notebook goes")
    parser.add_argument("--parameters", type=Path, required=True, help="YAML file of a profile")
    parser.add_argument("--profile", default="", help="its name, to tell how long the rest takes")
    parser.add_argument("--chapters", nargs="*", default=[], help="all of the book's, as they run")
    arguments = parser.parse_args()
    if arguments.target.stem in arguments.chapters:
        since = max(file.stat().st_mtime for file in (arguments.parameters, *SOURCES))
        known = progress.expected(arguments.profile)
        print(progress.told(arguments.target, arguments.chapters, known, since), flush=True)
    values = yaml.safe_load(arguments.parameters.read_text(encoding="utf-8")) or {}
    execute(arguments.source, arguments.target, on_this_machine(values))


if __name__ == "__main__":
    main()
