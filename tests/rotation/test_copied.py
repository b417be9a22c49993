"""The folder rotate_core/rotation, copied to somewhere else, is the whole method."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import rotate_core

ROTATION = Path(rotate_core.__file__).parent / "rotation"
ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rotate_core", "tqdm", "pandas", "scipy", "transformers"}:
            raise ModuleNotFoundError(f"{name} is not to be needed")

sys.meta_path.insert(0, Refuse())
"""
SAME = """
import torch
from rotation.settings import Settings

arguments = torch.load("arguments.pt", weights_only=True)
again = deflate(*arguments, n_channels=2, settings=Settings(restarts=2))
torch.save(again, "again.pt")
"""


def test_the_readme_runs_on_a_copy_and_gives_the_same_channels(tmp_path: Path) -> None:
    import torch

    from rotate_core.rotation.deflate import deflate
    from rotate_core.rotation.settings import Settings

    shutil.copytree(ROTATION, tmp_path / "rotation", ignore=shutil.ignore_patterns("__pycache__"))
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(16, 400, generator=generator) ** 3
    w = torch.randn(3, 16, generator=generator)
    torch.save([w, projection], tmp_path / "arguments.pt")
    example = re.search(r"```python\n(.*?)```", (ROTATION / "README.md").read_text(), re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 10
    script = tmp_path / "script.py"
    script.write_text(ALONE + example[1] + SAME)
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    expected = deflate(w, projection, n_channels=2, settings=Settings(restarts=2))
    assert again.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(again[name], values, equal_nan=True)  # NaN behind a history


def test_the_method_is_small() -> None:
    files = list(ROTATION.glob("*.py"))
    assert len(files) == 10, "nine files, and what makes a folder a package"
    assert sum(len(file.read_text().splitlines()) for file in files) < 1400
