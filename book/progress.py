"""How far the book is: which chapter of how many, and about how long the rest takes.

    python -m book.progress notebooks/profiles/quick.yaml >> notebooks/seconds.yaml

prints what the chapters as they were last executed took, to be kept for others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).parents[1]
SECONDS = ROOT / "notebooks" / "seconds.yaml"
"""What each chapter took in each profile, on one machine; others have a pace of their own."""


def took(executed: Path) -> float | None:
    """Seconds that a chapter took when it was last executed; None: it never was."""
    if not executed.exists():
        return None
    notebook = nbformat.read(executed, as_version=4)
    return notebook.metadata.get("papermill", {}).get("duration")


def told(target: Path, chapters: Sequence[str], expected: dict[str, float], since: float) -> str:
    """A line on the chapter that begins.

    Args:
        target: where it goes when it is executed.
        chapters: all of the book's, in the order of their execution.
        expected: seconds of each in this profile; empty where that is not known.
        since: what was executed after this time, as files count it, is not executed again; its pace
            is that of this machine.
    """
    files = {name: target.parent / f"{name}.ipynb" for name in chapters}
    fresh = [n for n, file in files.items() if file.exists() and file.stat().st_mtime > since]
    line = f"Chapter {chapters.index(target.stem) + 1} of {len(chapters)}: {target.stem}"
    left = [name for name in chapters if name not in fresh]
    if not expected.keys() >= set(left):
        return line
    known = [name for name in fresh if name in expected]
    pace = 1.0
    if base := sum(expected[name] for name in known):
        pace = sum(took(files[name]) or 0 for name in known) / base
    own, rest = (pace * sum(expected[n] for n in names) / 60 for names in ((target.stem,), left))
    return f"{line}, about {own:.0f} min; {rest:.0f} min left for {len(left)} chapters"


def expected(profile: str) -> dict[str, float]:
    """What the chapters of a profile are known to take; empty where nothing is."""
    known = yaml.safe_load(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
    return dict((known or {}).get(profile, {}))


if __name__ == "__main__":
    seconds = {
        file.stem: round(took(file) or 0)
        for file in sorted((ROOT / "book" / "executed").glob("*.ipynb"))
    }
    print(yaml.safe_dump({Path(sys.argv[1]).stem: seconds}), end="")
