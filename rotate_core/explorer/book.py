"""Files that the static book serves, so that a reader's browser can rotate neurons.

    python -m rotate_core.explorer.book smollm2-135m book/_extra/_static/explorer

writes U for the browser with a description of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from rotate_core.explorer.pack import pack
from rotate_core.explorer.widget import Explorer
from rotate_core.models import load_model
from rotate_core.storage import write_whole
from rotate_core.verdicts.chapter import placed

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.models import Model
    from rotate_core.verdicts.chapter import Chapter

SERVED = "_static/explorer"
"""Where a book serves the files, from its root."""
MOST_BYTES = 200_000_000
"""No reader waits for more: U of a large model is left out, and its page offers no rotation."""


def write_files(model: Model, folder: Path) -> None:
    """Write U of the last layer for the browser, as gzip, and what it is: null if it is too large.

    A model with an embedding of its own has one more U, which is not written: neurons of its first
    layers are shown, but not rotated, without Python.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _file_name(model)
    vocabulary = model.vocabulary(model.n_layers - 1)
    description: dict[str, str | int] | None = None
    if vocabulary.projection.numel() <= MOST_BYTES:
        packed = compressed(pack(vocabulary))
        write_whole(folder / name, packed)
        description = {
            "path": f"{SERVED}/{name}",
            "bytes": len(packed),
            "checksum": hashlib.sha256(packed).hexdigest()[:32],
            "vocabulary": vocabulary.name,
        }
    write_whole(folder / f"{name}.json", f"{json.dumps(description)}\n".encode())


def compressed(packed: bytes) -> bytes:
    """As gzip, which a browser undoes by itself. Rows look like noise: only their counts help."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31, strategy=zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(packed) + compressor.flush()


def served_file(model: Model, folder: str | Path) -> dict[str, str | int] | None:
    """The description in the folder, for the widget; None if U is too large or there is none."""
    path = Path(folder) / f"{_file_name(model)}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def where_you_read(
    chapter: Chapter, layer: int, kind: str, neuron: int, *, atlas: Atlas | None = None
) -> Explorer:
    """One neuron with its channels and the sliders, for a chapter that talks of it.

    Args:
        chapter: whose model it is.
        layer: the neuron's.
        kind: "gate", "in" or "out".
        neuron: its number.
        atlas: that has its channels; None: they are computed here, and held against no null.
    """
    served = served_file(chapter.model, placed(f"../book/_extra/{SERVED}"))
    neurons = [(layer, kind, neuron)]
    return Explorer(chapter.model, atlas, neurons=neurons, file=served, compact=True)


def _file_name(model: Model) -> str:
    return f"{model.name.replace('/', '--')}.bin"


def main() -> None:
    """The command of this module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="as load_model takes it")
    parser.add_argument("folder", type=Path, help="where the files go")
    arguments = parser.parse_args()
    write_files(load_model(arguments.model), arguments.folder)


if __name__ == "__main__":
    main()
