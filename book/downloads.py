"""What a reader takes away of a chapter: its notebook as it ran, its record, tables and figures.

    python -m book.downloads book/executed results book/_extra/downloads

A table of a record is a list of rows; each becomes a file of CSV. Figures are SVG.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

from rotate_core.storage import write_whole


def gather(executed: Path, results: Path, target: Path) -> None:
    """Put NN_claim.ipynb, .json and .zip into a folder, of each executed chapter; all else goes."""
    shutil.rmtree(target, ignore_errors=True)
    for notebook in sorted(executed.glob("[0-9]*.ipynb")):
        write_whole(target / notebook.name, notebook.read_bytes())
        figures = sorted(notebook.with_suffix("").glob("*.svg"))
        files = {figure.name: figure.read_bytes() for figure in figures}
        record = results / f"{notebook.stem}.json"
        if record.is_file():
            write_whole(target / record.name, record.read_bytes())
            found = tables(json.loads(record.read_text(encoding="utf-8"))["metrics"])
            files |= {f"{name.replace('/', '-')}.csv": as_csv(rows) for name, rows in found.items()}
        if files:
            write_whole(target / f"{notebook.stem}.zip", zipped(files))


def tables(metrics: Any, name: str = "") -> dict[str, list[dict[str, Any]]]:
    """The tables in a record's metrics, by their path in it."""
    if isinstance(metrics, list) and metrics and all(isinstance(row, dict) for row in metrics):
        return {name: metrics}
    found: dict[str, list[dict[str, Any]]] = {}
    for key, part in metrics.items() if isinstance(metrics, dict) else ():
        found |= tables(part, f"{name}-{key}" if name else key)
    return found


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV; a column for every name that one of them has."""
    text = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zipped(files: dict[str, bytes]) -> bytes:
    """Files in a zip file; the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


if __name__ == "__main__":
    gather(*map(Path, sys.argv[1:]))
