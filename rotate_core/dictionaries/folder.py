"""What was learned, on disk.

    manifest.json            settings, where the activations are from, figures, contexts
    regions.safetensors      the arrays (of factors: factors.safetensors); written last, so all is
                             there when it is

Nothing is ever unpickled: JSON and safetensors are read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rotate_core.storage import versions, write_whole
from rotate_core.text.labelled import Context

MANIFEST = "manifest.json"


def to_do(folder: Path, asked: Mapping[str, Any], what: str) -> bool:
    """Whether a folder still lacks what is asked for; it is then its own.

    What is asked for is kept in asked.json, so that a run that was killed is gone on with, and
    never one of something else.

    Raises:
        ValueError: the folder is of something else; the message says what differs.
    """
    file = folder / "asked.json"
    if file.exists():
        try:
            known = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}; delete the folder") from error
        if others := [k for k in {*asked, *known} if known.get(k) != asked.get(k)]:
            told = ", ".join(f"{k}: {known.get(k)} -> {asked.get(k)}" for k in sorted(others))
            raise ValueError(f"{folder} is of other {what} ({told}): wanted another folder")
    else:
        write_whole(file, (json.dumps(asked, indent=1) + "\n").encode())
    return not arrays_of(folder, what).exists()


def arrays_of(folder: Path, what: str) -> Path:
    """The file of the arrays."""
    return folder / f"{what}.safetensors"


def write(folder: Path, learned: Any, what: str) -> None:
    """Write a dataclass with a field ``settings``, each file whole or not at all.

    Raises:
        FileExistsError: there is one in the folder.
    """
    fields = {field.name: getattr(learned, field.name) for field in dataclasses.fields(learned)}
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    content: dict[str, Any] = {"format": _format(what)}
    for name in fields.keys() - tensors.keys():
        value = fields[name]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        content[name] = None if value != value else value  # JSON has no NaN
    content["versions"] = versions("rotate_core", "torch")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if arrays_of(folder, what).exists():
        raise FileExistsError(f"{folder} holds {what} already: wanted another folder")
    write_whole(folder / MANIFEST, text.encode())
    write_whole(arrays_of(folder, what), save({k: v.contiguous() for k, v in tensors.items()}))


def read(folder: Path, kind: type[Any], settings: type[Any], what: str) -> dict[str, Any]:
    """The fields of such a dataclass, as :func:`write` wrote them.

    Args:
        folder: where it is.
        kind: the dataclass.
        settings: the type of its settings.
        what: what it is called.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged, or of something else.
    """
    path = arrays_of(folder, what)
    for file in (folder / MANIFEST, path):
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no whole {what}: there is no {file.name} in it"
            )
    fields = _manifest(folder / MANIFEST, what)
    fields.pop("versions", None)
    known = {field.name: field for field in dataclasses.fields(kind)}
    optional = {name for name, field in known.items() if field.default is not dataclasses.MISSING}
    try:
        fields |= load(path.read_bytes())
        if odd := {*fields, *optional} ^ {*known, *optional}:
            raise ValueError(f"fields that are missing, or not known: {', '.join(sorted(odd))}")
        if fields["settings"] is not None:  # of what was not fitted here
            fields["settings"] = settings(**fields["settings"])
        for name, field in known.items():
            if field.type == "float" and fields[name] is None:
                fields[name] = math.nan
        if fields.get("history") is not None:
            fields["history"] = tuple(fields["history"])
        if fields.get("contexts") is not None:
            fields["contexts"] = tuple(
                tuple(Context(*context) for context in row) for row in fields["contexts"]
            )
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} or its {MANIFEST} is damaged: {error}") from error
    return fields


def _manifest(path: Path, what: str) -> dict[str, Any]:
    """The content of manifest.json, without its format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = content.pop("format", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of {what}: {error}") from error
    if written != _format(what):
        raise ValueError(f"{path} has format {written!r}: wanted {_format(what)!r}")
    return dict(content)


def _format(what: str) -> str:
    return f"rotate_core {what} 1"
