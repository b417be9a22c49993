"""Records of a model's chapters are kept for the book, all of one model or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rotate_core.verdicts.recorded import folder_of, record


def chapter(folder: Path, name: str, checksum: str = "a" * 64) -> None:
    folder.mkdir(exist_ok=True)
    content = {"model": {"name": "google/gemma", "checksum": checksum}, "claims": {"x": 1}}
    (folder / name).write_text(json.dumps(content))


def test_records_are_kept_under_the_models_name_with_the_profile(tmp_path: Path) -> None:
    chapter(tmp_path / "results", "05_x.json")
    chapter(tmp_path / "results", "08_y.json")
    kept = record(tmp_path / "results", tmp_path / "kept", profile="full")
    assert kept == tmp_path / "kept/google--gemma"
    assert sorted(path.name for path in kept.iterdir()) == ["05_x.json", "08_y.json"]
    read = json.loads((kept / "05_x.json").read_text())
    assert (read["profile"], read["claims"]) == ("full", {"x": 1})


def test_the_books_own_records_name_the_profile_they_were_made_with() -> None:
    root = Path(__file__).parents[2]
    records = sorted(root.glob("book/recorded/*/*.json"))
    assert len({path.parent for path in records}) >= 2
    for path in records:
        profile = json.loads(path.read_text())["profile"]
        assert (root / "notebooks/profiles" / f"{profile}.yaml").is_file(), path


def test_two_models_records_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    chapter(tmp_path / "results", "05_x.json")
    chapter(tmp_path / "results", "08_y.json", checksum="b" * 64)
    with pytest.raises(ValueError, match=r"aaaaaaaa.*bbbbbbbb.*wanted one model's"):
        record(tmp_path / "results", tmp_path / "kept", profile="full")
    assert not (tmp_path / "kept").exists()
    with pytest.raises(FileNotFoundError, match="no chapter's record"):
        record(tmp_path, tmp_path / "kept", profile="full")


def test_a_models_folder_is_named_by_what_it_was_read_from(tmp_path: Path) -> None:
    (tmp_path / "my-model.gguf").touch()
    assert folder_of(str(tmp_path / "my-model.gguf")) == "my-model"
    assert folder_of("google/gemma-2-2b") == "google--gemma-2-2b"
    assert folder_of("smollm2-135m") == "smollm2-135m"
