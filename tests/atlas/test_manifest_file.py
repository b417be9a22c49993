"""Whatever stands in a manifest's place: it is one line, with the file and the field."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from rotate_core import Settings
from rotate_core.atlas import manifest_file
from rotate_core.atlas.manifest import Manifest, Shard
from rotate_core.atlas.manifest_file import read_manifest, write_manifest

MANIFEST = Manifest(
    model="tiny",
    checksum="1a",
    settings=Settings(),
    n_channels=2,
    seed=0,
    null=3,
    statistic="core",
    side="auto",
    fold_norm=False,
    versions={"torch": "2.13"},
    exceptions={"0/out": {"threshold": 3.0}},
    shards=(Shard(0, "out", (0, 1, 2), null=True), Shard(0, "out", (5, 7))),
)
VALUES = [None, True, 3, -1, 2.5, "x", "", [], [[1]], {}, {"a": 1}, 10**30, 1e400, "\x1b[2J"]


def paths(content, at=()):
    """Where the values of a manifest are."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*at, key))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))  # however it is laid out
    assert read_manifest(tmp_path) == MANIFEST


def test_an_atlas_from_before_precision_and_solvers_told_is_of_full_precision_and_the_first(
    tmp_path: Path,
) -> None:
    first = dataclasses.replace(MANIFEST, solver_version=1)
    write_manifest(tmp_path, first)
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["settings"]["precision"], content["solver_version"]
    content["sha256"] = manifest_file._checksum(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path) == first
    fixed = dataclasses.asdict(dataclasses.replace(first, shards=(), versions={}))
    del fixed["settings"]["precision"], fixed["solver_version"]
    assert first.digest() == hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    rounded = dataclasses.replace(first.settings, precision="bfloat16")
    rounded = dataclasses.replace(first, settings=rounded)
    assert rounded.digest() != first.digest() != MANIFEST.digest()
    assert first.differences(rounded) == ["precision: full -> bfloat16"]
    assert first.differences(MANIFEST) == [f"solver_version: 1 -> {MANIFEST.solver_version}"]


def test_every_value_of_a_wrong_type_is_one_line_with_the_file_and_the_field(
    tmp_path: Path,
) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    whole = path.read_text()
    for where in paths(json.loads(whole)):
        for value in VALUES:
            content = json.loads(whole)
            holder = content
            for key in where[:-1]:
                holder = holder[key]
            before, holder[where[-1]] = holder[where[-1]], value
            if value == before and type(value) is type(before):
                continue
            path.write_text(json.dumps(content))
            with pytest.raises(ValueError, match=r"manifest\.json is ") as caught:
                read_manifest(tmp_path)
            message = str(caught.value)
            assert message.isprintable()
            field = where[0].removesuffix("s")  # "exception for '0': ..."
            changed = "it was changed since it was written" in message
            assert field in message or changed, (where, value, message)
            if type(value) is not type(before) and field not in ("setting", "exception"):
                assert not changed, (where, value, message)
