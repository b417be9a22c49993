"""The Makefile: which chapters it executes, in which order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_every_chapter_is_executed_and_the_scoreboard_last():
    command = ["make", "--dry-run", "chapter", "N=none"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    numbers = re.search(r"is none of:([ 0-9]+)", told)[1].split()
    assert sorted(numbers) == sorted(path.name[:2] for path in ROOT.glob("notebooks/*.ipynb"))
    assert numbers[-1] == "11", "the scoreboard has what all others left"
