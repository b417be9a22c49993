"""What "import rotate_core" offers, and what it costs."""

from __future__ import annotations

import re
import subprocess
import sys

import rotate_core

HEAVY = (
    "accelerate", "gguf", "huggingface_hub", "ipywidgets", "matplotlib", "pandas", "pyarrow", "ray",
    "seaborn", "transformers", "typer",
)  # fmt: skip


def test_every_name_of_the_public_face_is_there() -> None:
    for name in rotate_core.__all__:
        assert getattr(rotate_core, name) is not None
    assert {"calibrate", "matched_vectors", "matched_rotations"} <= set(rotate_core.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import rotate_core"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "torch" in imported
    assert "rotate_core.decomposition" in imported
    assert imported.isdisjoint(HEAVY)
