"""A checkpoint directory, read lazily: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models.architectures import ARCHITECTURES, Architecture

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
READABLE = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Reads single tensors, or rows or columns of them, and nothing else.

    A file is mapped into memory while it is read: what is not asked for is not loaded, and a shard
    that is not needed is not opened.
    """

    path: Path
    """The directory."""
    config: dict[str, Any] = field(repr=False)
    """config.json (of a multimodal model, with the part about text on top)."""
    architecture: Architecture = field(repr=False)
    """The names of its tensors."""
    locate: Callable[[str], Path] = field(repr=False)
    """A file's name -> its path on this machine, fetched if need be; else FileNotFoundError."""

    def size(self, key: str) -> int:
        """A size that config.json states.

        Raises:
            ValueError: it is missing, or no positive integer.
        """
        size = self.config.get(key)
        if type(size) is not int or size < 1:
            file = self.path / "config.json"
            raise ValueError(f"{file} has {key}: {size!r}; a positive integer is needed")
        return size

    @cached_property
    def files(self) -> dict[str, str]:
        """The name of each tensor -> the name of the file that holds it."""
        try:
            index = self.locate(INDEX_FILE)
        except FileNotFoundError:
            return dict.fromkeys(self._open(SINGLE_FILE).keys(), SINGLE_FILE)
        files = _read_json(index).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise ValueError(f"{index} has no weight_map; copy the checkpoint anew")
        return files

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, out of its file's header."""
        return tuple(self._slice(name).get_shape())

    def tensor(
        self,
        name: str,
        *,
        rows: Sequence[int] | slice = slice(None),
        columns: Sequence[int] | slice | None = None,
    ) -> Float[Tensor, ...]:
        """A tensor, or some rows or columns of it, in float32 and in memory of its own.

        Args:
            name: as in the architecture's row; another prefix in the checkpoint is found.
            rows: which of the first axis.
            columns: which of the second axis; None for a tensor with one axis.

        Raises:
            ValueError: there is no such tensor, its file is damaged, or it is quantised.
        """
        piece = self._slice(name)
        if piece.get_dtype() not in READABLE:
            raise ValueError(
                f"tensor {name!r} of {self.path} is stored as {piece.get_dtype()}; one of "
                f"{', '.join(READABLE)} is needed, so save a dequantised checkpoint"
            )
        view = piece[:]  # of the mapped file: only what is selected below is copied
        view = view[rows] if columns is None else view[rows][:, columns]
        return view.to(torch.float32, copy=True)

    @cached_property
    def sha256(self) -> str:
        """Of the safetensors file, as sha256sum prints it.

        Of several files: of the lines that sha256sum prints for them in the order of their names.
        """
        names = sorted(set(self.files.values()))
        paths = [self.locate(name) for name in names]
        n_bytes = sum(path.stat().st_size for path in paths)
        lines = []
        with tqdm(
            desc="sha256", total=n_bytes, unit="B", unit_scale=True, disable=n_bytes < 4e9
        ) as bar:
            for name, path in zip(names, paths, strict=True):
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                        bar.update(len(block))
                lines.append(f"{digest.hexdigest()}  {name}\n")
        if len(lines) == 1:
            return lines[0].split()[0]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _slice(self, name: str) -> Any:
        """A tensor that is not read yet."""
        actual = self._resolve(name)
        file = self.files[actual]
        handle = self._open(file)
        if actual not in handle.keys():  # noqa: SIM118, the handle is no dict
            raise ValueError(
                f"{self.path / file} lacks {actual!r}, which {INDEX_FILE} says it holds; "
                "copy the checkpoint anew"
            )
        return handle.get_slice(actual)

    def _resolve(self, name: str) -> str:
        prefix, *others = self.architecture.prefixes
        candidates = [name]
        if name.startswith(prefix):
            candidates += [other + name.removeprefix(prefix) for other in others]
        for candidate in candidates:
            if candidate in self.files:
                return candidate
        near = difflib.get_close_matches(name, self.files, n=3)
        where = sorted(set(self.files.values()))
        raise ValueError(
            f"there is no tensor {name!r} in {self.path / where[0]}"
            + (f" and {len(where) - 1} more" if len(where) > 1 else "")
            + (f"; the nearest are {', '.join(map(repr, near))}" if near else "")
        )

    def _open(self, file: str) -> Any:
        import safetensors

        path = self.locate(file)
        try:
            return safetensors.safe_open(path, framework="pt")
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path} ({path.stat().st_size:,} bytes) is no whole safetensors file ({error}); "
                "copy it anew"
            ) from error


def open_checkpoint(path: Path, locate: Callable[[str], Path] | None = None) -> Checkpoint:
    """The checkpoint in a directory. Its config.json is read, its weights are not.

    Args:
        path: the directory.
        locate: finds the directory's files, where they are not simply in it.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is damaged, or its architecture is not in `ARCHITECTURES`.
    """
    locate = locate or _Directory(path)
    config = _read_json(locate("config.json"))
    family = config.get("model_type")
    text = config.get("text_config")
    if family not in ARCHITECTURES and isinstance(text, dict):  # a multimodal model
        config = config | text
        family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ValueError(
            f"{path / 'config.json'} has model_type {family!r}; known are "
            f"{', '.join(ARCHITECTURES)} "
            "(one more is one more row in rotate_core/models/architectures.py)"
        )
    if family == "gpt2" and config.get("n_inner") is None:
        config["n_inner"] = 4 * config.get("n_embd", 0)  # what GPT-2 means by null
    return Checkpoint(path, config, ARCHITECTURES[family], locate)


@dataclass(frozen=True)
class _Directory:
    """Finds files in a local directory."""

    path: Path

    def __call__(self, name: str) -> Path:
        file = self.path / name
        if file.is_file():
            return file
        if name != SINGLE_FILE:
            raise FileNotFoundError(f"{self.path} has no {name}; give a Hugging Face checkpoint")
        for pickle in sorted([*self.path.glob("*.bin"), *self.path.glob("*.pt")]):
            raise FileNotFoundError(
                f"{self.path} keeps its weights in {pickle.name}, a pickle; opening one can run "
                "code, so it is not read. If you trust it, load it in transformers and "
                "save_pretrained() it, which writes safetensors"
            )
        raise FileNotFoundError(f"{self.path} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    return content
