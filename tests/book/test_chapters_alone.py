"""A chapter runs by itself: where no other has left results, and without the book's packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import TEXT

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
BOOK = "jupyter_book", "jupyterlab", "myst_nb", "papermill", "sphinx", "voila"
SMALL = {
    "01_one_neuron": {"layer": 1, "neuron": 5, "n_channels": 2, "null_vectors": 6},
    "04_null": {
        "atlas_channels": 2, "planted_layer": 1, "planted_neurons": 6, "planted_sizes": [5],
        "planted_strengths": [0.8], "fresh_null": 40, "certified_neurons": 5, "null_repeats": 4,
        "reading_tokens": 600,
    },
    "08_input_ablation": {"atlas_channels": 2, "causal_tokens": 600, "rotations": 3},
    "11_scoreboard": {},
}  # fmt: skip
SHARED = {"layers": [0, 1], "atlas_neurons": 6, "atlas_null": 12, "threshold": 2.0, "window": 16}
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

absent, notebook, values = map(json.loads, sys.argv[1:])

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse)
shell = InteractiveShell.instance()
with open(notebook, encoding="utf-8") as file:
    cells = [cell for cell in json.load(file)["cells"] if cell["cell_type"] == "code"]
for cell in cells:
    shell.run_cell("".join(cell["source"])).raise_error()
    if "parameters" in cell["metadata"].get("tags", []):  # what papermill -p does
        shell.user_ns.update(values)
assert not set(absent) & {name.partition(".")[0] for name in sys.modules}
"""


def test_every_chapter_installs_the_package_where_it_is_missing() -> None:
    cells = [json.loads(path.read_text("utf-8"))["cells"][1] for path in NOTEBOOKS.glob("*.ipynb")]
    (source,) = {"".join(cell["source"]) for cell in cells}
    assert '%pip install -q "rotate-core[notebooks] @ git+https://github.com/' in source
    assert all(cell["metadata"]["tags"] == ["remove-cell"] for cell in cells)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of a few documents."""
    folder = tmp_path / "text"
    folder.mkdir()
    words = TEXT.split()
    for n in range(12):
        turned = [words[(n * i + i * i) % len(words)] for i in range(400)]
        (folder / f"{n:02}.txt").write_text(" ".join(turned))
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_a_chapter_runs_by_itself(name: str, checkpoints: Any, text: Path, tmp_path: Path) -> None:
    values = {**SHARED, **SMALL[name], "model": str(checkpoints("llama")), "text": str(text)}
    arguments = [BOOK, str(NOTEBOOKS / f"{name}.ipynb"), values]
    command = [sys.executable, "-c", RUN, *map(json.dumps, arguments)]
    folder = tmp_path / "anywhere"
    folder.mkdir()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (written,) = folder.glob(f"results/*/default/{name}.json")
    record = json.loads(written.read_text())
    assert record["model"]["name"] == "tiny-llama"
    assert {path.name for path in tmp_path.iterdir()} == {"anywhere", "text"}
