"""Whatever is lost or damaged is seen, named in one line, and made again as it was."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
from atlas_builds import ONE_GROUP as OPTIONS
from atlas_builds import tree

from rotate_core import Settings
from rotate_core.atlas import Atlas
from rotate_core.atlas.pieces import forget
from rotate_core.models import Model


@pytest.fixture(scope="module")
def built(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return Atlas.build(tmp_path_factory.mktemp("atlas") / "whole", model, **OPTIONS)


@pytest.fixture
def folder(built: Atlas, tmp_path: Path) -> Path:
    """An atlas of one's own, to damage."""
    return shutil.copytree(built.folder, tmp_path / "atlas")


def found_in(folder: Path) -> list[str]:
    """What a check of every byte finds."""
    try:
        return Atlas.open(folder).verify()
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]


# --- What is damaged is seen --------------------------------------------------------------------


def read(folder: Path) -> list[pd.DataFrame] | str:
    """All that one can read of an atlas, or the error."""
    try:
        return read_whole(folder)
    except ValueError as error:
        return str(error)


def read_whole(folder: Path) -> list[pd.DataFrame]:
    atlas = Atlas.open(folder)
    word = next(token.strip() for token in atlas.table()["top_tokens"][0] if token.strip())
    channels = atlas.channels(layer=1, kind="out").table()
    return [atlas.table(), atlas.table(null=True), atlas.search(word), atlas.summary(), channels]


@pytest.mark.parametrize("n", [60, pytest.param(600, marks=pytest.mark.fuzz)])
def test_no_flipped_bit_is_unseen(built: Atlas, folder: Path, n: int) -> None:
    wanted, said = read_whole(folder), json.loads((folder / "manifest.json").read_text())
    names, at = sorted(tree(folder)), random.Random(0)
    n_seen = 0
    for _ in range(n):
        path = folder / at.choice(names)
        whole = path.read_bytes()
        bit = at.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        forget()
        lines = found_in(folder)
        found = read(folder)
        same = not isinstance(found, str) and all(map(pd.DataFrame.equals, found, wanted))
        assert same or isinstance(found, str), (path.name, bit)
        assert same or len(found.splitlines()) == 1
        if not lines:  # such as a line break of a manifest
            assert path.name == "manifest.json"
            assert json.loads(path.read_text()) == said
        else:
            n_seen += 1
            assert any(path.name in line for line in lines), (path.name, bit, lines)
        assert same or lines
        path.write_bytes(whole)
    print(f"{n} flipped bits: {n_seen} named, {n - n_seen} without effect, 0 unseen")
    assert found_in(folder) == []


def test_a_fifo_is_named_and_not_waited_for(folder: Path) -> None:
    for name in ("tokens.json", "tokens.sha256", "layer-01/out/index.parquet"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert any(Path(name).name in line for line in found_in(folder))
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    assert found_in(folder) == []


# --- What is lost is made again -----------------------------------------------------------------


DAMAGES = {
    "gone": lambda content, at: None,
    "empty": lambda content, at: b"",
    "cut": lambda content, at: content[: at.randrange(len(content))],
    "longer": lambda content, at: content + at.randbytes(9),
    "noise": lambda content, at: at.randbytes(len(content)),
    "torn": lambda content, at: content[: len(content) // 2] + bytes(len(content) // 2 + 1),
}


@pytest.mark.parametrize("n", [24, pytest.param(300, marks=pytest.mark.fuzz)])
def test_every_file_that_is_lost_or_damaged_is_made_again(
    built: Atlas, folder: Path, model: Model, n: int
) -> None:
    wanted, at = tree(built.folder), random.Random(1)
    names, damages = sorted(wanted), list(DAMAGES.values())
    for i in range(n):
        path = folder / names[i % len(names)]
        content = damages[i % len(damages)](wanted[names[i % len(names)]], at)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        (line, *_) = found_in(folder)
        assert len(line.splitlines()) == 1
        if path.name == "manifest.json" and content is not None:
            assert "Deleted, it is made again by the same `rotate decompose`" in line
            path.unlink()
        Atlas.build(folder, model, **OPTIONS)
        assert tree(folder) == wanted, (i, path)
    print(f"{n} damaged files: all told, and made again")


def test_a_shard_that_is_made_again_keeps_the_p_values_of_its_layer(
    built: Atlas, folder: Path, model: Model
) -> None:
    for path in folder.rglob("neurons-*"):
        path.unlink()
    atlas = Atlas.build(folder, model, **OPTIONS)
    assert atlas.table().equals(built.table())
    assert atlas.table()["q_value"].notna().all()


def test_a_damaged_shard_of_neurons_that_are_not_asked_for_is_made_again(
    built: Atlas, folder: Path, model: Model
) -> None:
    (table,) = folder.rglob("neurons-*.parquet")
    table.write_bytes(b"")
    (here, *_) = built.channels(layer=1, kind="out").indices
    Atlas.build(folder, model, **OPTIONS | {"neurons": [here]})
    assert tree(folder) == tree(built.folder)


def test_a_search_says_what_is_missing_in_one_line(folder: Path, caplog) -> None:
    atlas = Atlas.open(folder)
    word = next(token.strip() for token in atlas.table()["top_tokens"][0] if token.strip())
    before = atlas.search(word)
    assert not caplog.records
    (folder / "layer-01/out/index.sha256").unlink()
    with caplog.at_level(logging.WARNING):
        without = atlas.search(word)
    (line,) = caplog.messages
    assert line == (
        f"{folder} is not complete: layer 1, out: no index, p- and q-values of all that is there; "
        "run the same `rotate decompose` again"
    )
    assert without["q_value"].isna().all()
    columns = ["neuron", "channel", "token"]
    assert without[columns].equals(before[columns])
    (listing,) = folder.rglob("null-*.sha256")
    listing.unlink()
    assert atlas.verify() == ["layer 1, out: 1 of 2 shards are there"]


# --- What was made otherwise never passes for what is planned -----------------------------------


def test_without_its_manifest_an_atlas_is_made_again_and_keeps_its_shards(
    built: Atlas, folder: Path, model: Model
) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    (folder / "manifest.json").unlink()
    Atlas.build(folder, model, **OPTIONS)
    assert tree(folder) == tree(built.folder)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(
    "change", [{"settings": Settings(threshold=3.0)}, {"seed": 1}, {"neurons": [0, 9, 47]}]
)
def test_shards_of_another_manifest_are_not_taken_for_ones_own(
    built: Atlas, folder: Path, model: Model, tmp_path: Path, change
) -> None:
    if "neurons" in change:  # the same first and last one, so the same name
        first, *_, last = built.channels(layer=1, kind="out").indices
        change = {"neurons": [first, first + 1, last]}
    (folder / "manifest.json").unlink()
    found = Atlas.build(folder, model, **OPTIONS | change)
    fresh = Atlas.build(tmp_path / "fresh", model, **OPTIONS | change)
    assert found.table().equals(fresh.table())
    assert found.verify() == []
