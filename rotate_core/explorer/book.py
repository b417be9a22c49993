"""What the static book serves beside its pages, so that a reader's browser can rotate neurons.

    python -m rotate_core.explorer.book smollm2-135m book/_extra/_static/explorer

writes U for the browser with a description of it, and with ``--first 29:out:100`` a script that
shows some neurons in a page that is no notebook.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rotate_core.explorer.pack import pack
from rotate_core.models import load_model

if TYPE_CHECKING:
    from rotate_core.models import Model

SERVED = "_static/explorer"
"""Where a book serves the files, from its root."""


def write_files(model: Model, folder: Path) -> None:
    """Write U of the last layer for the browser, and its description.

    A model with an embedding of its own has one more U, which is not written: neurons of its first
    layers are shown, but not rotated, without Python.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = model.vocabulary(model.n_layers - 1)
    packed = pack(vocabulary)
    name = _file_name(model)
    unfinished = folder / f"{name}.part"
    unfinished.write_bytes(packed)
    unfinished.replace(folder / name)
    description = {
        "path": f"{SERVED}/{name}",
        "bytes": len(packed),
        "checksum": hashlib.sha256(packed).hexdigest()[:32],
        "vocabulary": vocabulary.name,
    }
    (folder / f"{name}.json").write_text(json.dumps(description) + "\n")


def served_file(model: Model, folder: str | Path) -> dict[str, str | int] | None:
    """What :func:`write_files` left in the folder, for the widget; None where there is nothing."""
    path = Path(folder) / f"{_file_name(model)}.json"
    if not path.is_file():
        return None
    description: dict[str, str | int] = json.loads(path.read_text())
    return description


def _file_name(model: Model) -> str:
    return f"{model.name.replace('/', '--')}.bin"


def main() -> None:
    """The command of this module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="as load_model takes it")
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--first", nargs="*", default=[], metavar="LAYER:KIND:NEURON")
    parser.add_argument("--null", type=int, default=0, help="matched vectors to calibrate against")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    write_files(model, arguments.folder)
    if arguments.first:
        from rotate_core.explorer.widget import Explorer

        parts = [name.split(":") for name in arguments.first]
        neurons = [(int(layer), kind, int(index)) for layer, kind, index in parts]
        file = served_file(model, arguments.folder)
        explorer = Explorer(model, neurons=neurons, null=arguments.null, file=file)
        explorer.save(arguments.folder / "first.js")


if __name__ == "__main__":
    main()
