"""What a reader takes away of a chapter."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from book.downloads import gather, tables


def test_tables_are_lists_of_rows_wherever_they_are() -> None:
    rows = [{"a": 1, "b": None}, {"a": 2}]
    metrics = {"x": 1.5, "inside": {"deep": rows, "names": ["a"]}, "flat": rows, "none": []}
    assert tables(metrics) == {"inside-deep": rows, "flat": rows}


def test_a_chapter_is_gathered_and_what_was_there_goes(tmp_path: Path) -> None:
    executed, results, target = (tmp_path / name for name in ("executed", "results", "target"))
    for folder in (executed, results, target):
        folder.mkdir()
    (target / "00_old.ipynb").write_text("gone by now")
    for name in ("01_one", "02_without_record"):
        (executed / f"{name}.ipynb").write_text(f"of {name}")
    rows = [{"token": "a,b", "z": 1.5}, {"token": "é", "z": None, "more": True}]
    (results / "01_one.json").write_text(json.dumps({"metrics": {"table": rows}}))
    (executed / "01_one").mkdir()
    (executed / "01_one/fig-a.svg").write_text("<svg/>")
    gather(executed, results, target)
    assert sorted(path.name for path in target.iterdir()) == [
        "01_one.ipynb", "01_one.json", "01_one.zip", "02_without_record.ipynb",
    ]  # fmt: skip
    with zipfile.ZipFile(target / "01_one.zip") as archive:
        assert archive.read("fig-a.svg") == b"<svg/>"
        assert archive.read("table.csv").decode() == 'token,z,more\n"a,b",1.5,\né,,True\n'
    before = (target / "01_one.zip").read_bytes()
    gather(executed, results, target)
    assert (target / "01_one.zip").read_bytes() == before
