"""What "import rotate_core" offers, and what it costs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import rotate_core

HEAVY = (
    "accelerate", "gguf", "huggingface_hub", "ipywidgets", "matplotlib", "pandas", "pyarrow", "ray",
    "seaborn", "transformers", "typer",
)  # fmt: skip


def test_every_name_of_the_public_face_is_there() -> None:
    for name in rotate_core.__all__:
        assert getattr(rotate_core, name) is not None
    assert {"calibrate", "label", "matched_vectors", "matched_rotations"} <= set(
        rotate_core.__all__
    )


@pytest.mark.parametrize(
    ("command", "wanted", "unwanted"),
    [
        (["-c", "import rotate_core"], {"rotate_core"}, {"torch", "numpy", "scipy", *HEAVY}),
        (["-c", "from rotate_core import decompose, load_model"], {"torch"}, set(HEAVY)),
        (["-m", "rotate_core", "--help"], {"typer"}, {"torch", "numpy", *HEAVY} - {"typer"}),
        (["-m", "rotate_core", "decompose", "-h"], {"typer"}, {"torch", *HEAVY} - {"typer"}),
        (["-m", "rotate_core", "label", "-h"], {"typer"}, {"torch", *HEAVY} - {"typer"}),
    ],
)
def test_what_is_heavy_is_imported_where_it_is_used(command, wanted, unwanted) -> None:
    command = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert wanted <= imported
    assert imported.isdisjoint(unwanted)


def test_the_public_face_is_listed_before_it_is_imported() -> None:
    assert set(rotate_core.__all__) <= set(dir(rotate_core))
    with pytest.raises(AttributeError, match="no attribute 'decompress'"):
        _ = rotate_core.decompress
