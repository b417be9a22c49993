"""What was found on a model, kept for other readers: copies of its chapters' records.

A reader's own run joins the book's by ``rotate record`` and a pull request.
"""

from __future__ import annotations

import json
from pathlib import Path

from rotate_core.storage import write_whole

CHAPTERS = "[0-9][0-9]_*.json"


def folder_of(model: str) -> str:
    """The name of a model's folder among the results: its own, or that of its file or folder."""
    path = Path(model)
    return path.stem if path.exists() else model.replace("/", "--")


def record(results: str | Path, target: str | Path, *, profile: str) -> Path:
    """Copy the records of one model's chapters to ``target``/MODEL, each with the profile's name.

    Args:
        results: the folder with NN_claim.json, one for each chapter that ran.
        target: such as book/recorded.
        profile: what the chapters' sizes are called.

    Returns:
        The folder that was written. Records of other chapters that stood there are left.

    Raises:
        FileNotFoundError: ``results`` has no records.
        ValueError: they are of different models, so no claim would be about one.
    """
    read = {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(Path(results).glob(CHAPTERS))
    }
    if not read:
        raise FileNotFoundError(f"{results} has no chapter's record (NN_claim.json)")
    models = {(one["model"]["name"], one["model"]["checksum"]) for one in read.values()}
    if len(models) > 1:
        names = ", ".join(sorted(f"{name} ({checksum[:8]})" for name, checksum in models))
        raise ValueError(f"{results} has records of {names}: wanted one model's")
    folder = Path(target) / folder_of(next(iter(models))[0])
    for name, one in read.items():
        text = json.dumps(one | {"profile": profile}, sort_keys=True, allow_nan=False)
        write_whole(folder / name, f"{text}\n".encode())
    return folder
