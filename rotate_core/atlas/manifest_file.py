"""manifest.json: written whole with its own checksum, and read with every field looked at."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any

from rotate_core.atlas.manifest import Manifest, Shard, format_indices, parse_indices
from rotate_core.models.architectures import KINDS
from rotate_core.models.model import SIDES
from rotate_core.null.evidence import STATISTICS
from rotate_core.rotation.settings import Settings
from rotate_core.storage import write_whole

FORMAT = "rotate_core atlas 4"
"""Those before lack the whole tails, the evidence or the checksums, and are refused."""
MOST_PLANNED = 1 << 25
"""Vectors of an atlas: its plan would not fit into memory."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json with its own checksum, whole or not at all."""
    shards = [
        {"layer": s.layer, "kind": s.kind, "null" if s.null else "neurons": text}
        for s in manifest.shards
        for text in [format_indices(s.indices)]
    ]
    content = {"format": FORMAT, **dataclasses.asdict(dataclasses.replace(manifest, shards=()))}
    content |= {"sha256": _checksum(content | {"shards": shards}), "shards": content.pop("shards")}
    head = json.dumps(content | {"shards": []}, indent=2, ensure_ascii=False).removesuffix("[]\n}")
    text = head + "[\n    " + ",\n    ".join(map(json.dumps, shards)) + "\n  ]\n}\n"
    write_whole(folder / "manifest.json", text.encode())  # one line per shard


def _checksum(content: dict[str, Any]) -> str:
    """Of all that a manifest says, however it is laid out."""
    said = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json.

    Raises:
        FileNotFoundError: the folder is no atlas.
        ValueError: the manifest is damaged or of another version; the message names the field.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        what = "there is no manifest.json in it" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is no atlas: {what}; `rotate decompose` makes one")
    try:
        content = _typed("it", json.loads(path.read_text(encoding="utf-8")), dict)
        if (written := content.get("format")) in (None, FORMAT):
            return _checked(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no manifest of an atlas: {error}. Deleted, it is made again by the same "
            "`rotate decompose`, which keeps shards that are whole"
        ) from error
    raise ValueError(
        f"{path} is of format {reprlib.repr(written)}, and this version reads {FORMAT!r}: run "
        "`rotate decompose` again into another folder, or delete this one"
    )


def _checked(content: dict[str, Any]) -> Manifest:
    """The manifest out of its JSON. Types come first, so that a message can name the field."""
    types = {field.name: _JSON[str(field.type).partition("[")[0]] for field in _FIELDS}
    types |= {"format": str, "sha256": str}
    read, content = content, {"solver_version": 1} | content
    for name in [*types, *content]:
        if name not in types:
            raise ValueError(f"{reprlib.repr(name)} is unknown")
        if name not in content:
            raise ValueError(f"{name!r} is missing")
        _typed(name, content[name], types[name])
    for name, least in (("n_channels", 1), ("seed", 0), ("null", 0), ("solver_version", 1)):
        if content[name] < least:
            raise ValueError(f"{name} is {content[name]}, not at least {least}")
    for name, known in (("statistic", STATISTICS), ("side", SIDES)):
        if content[name] not in known:
            raise ValueError(f"{name} is {content[name]!r}, not one of {', '.join(known)}")
    for name, version in content["versions"].items():
        _typed(f"versions.{name}", version, str)
    try:
        settings = Settings(**content["settings"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings: {error}") from None
    shards = _shards(content["shards"])
    fields = {field.name: content[field.name] for field in _FIELDS}
    manifest = Manifest(**fields | {"settings": settings, "shards": shards})
    manifest.check_exceptions()
    if read["sha256"] != _checksum(read):
        raise ValueError("it was changed since it was written")
    return manifest


def _shards(entries: list[Any]) -> tuple[Shard, ...]:
    """The plan: every vector in one shard only."""
    shards: list[Shard] = []
    planned: dict[tuple[int, str, bool], set[int]] = {}
    n_planned = 0
    for i, entry in enumerate(entries):
        where = f"shards[{i}]"
        what = "null" if "null" in _typed(where, entry, dict) else "neurons"
        for name, wanted in (("layer", int), ("kind", str), (what, str)):
            if name not in entry:
                raise ValueError(f"{where}: {name!r} is missing")
            _typed(f"{where}.{name}", entry[name], wanted)
        try:
            indices = parse_indices(entry[what])
        except ValueError as error:
            raise ValueError(f"{where}.{what}: {error}") from None
        shard = Shard(entry["layer"], entry["kind"], indices, what == "null")
        there = planned.setdefault((*shard.group, shard.null), set())
        n_planned += len(indices)
        if shard.layer < 0 or shard.kind not in KINDS or not indices or len(entry) != 3:
            raise ValueError(f"{where} is {reprlib.repr(entry)}: no layer, kind and numbers")
        if n_planned > MOST_PLANNED or not there.isdisjoint(indices):
            raise ValueError(f"{where}.{what}: planned twice, or over {MOST_PLANNED:,} in all")
        there.update(indices)
        shards.append(shard)
    return tuple(shards)


def _typed(where: str, value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"{where} is {reprlib.repr(value)}, not a {wanted.__name__}")
    return value


_FIELDS = dataclasses.fields(Manifest)
_JSON: dict[str, type] = {
    "str": str, "int": int, "bool": bool, "dict": dict, "tuple": list, "Settings": dict
}  # fmt: skip
