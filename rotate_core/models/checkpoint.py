"""A checkpoint directory, read lazily: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import difflib
import hashlib
import json
import reprlib
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models.architectures import ARCHITECTURES, Architecture, Sizes, architecture_of

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The precisions that are read, by safetensors' names for them."""
CONFIG: dict[str, type] = {"model_type": str, "tie_word_embeddings": bool, "rotate_core": dict}
"""Types of what is read of config.json, beside the sizes."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Reads single tensors, or parts of them, and nothing else.

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

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that config.json states; ValueError if one is missing or no size."""
        return self.architecture.sizes(self.config, self.path / "config.json")

    @cached_property
    def files(self) -> dict[str, str]:
        """The name of each tensor -> the name of the file that holds it."""
        try:
            index = self.locate(INDEX_FILE)
        except FileNotFoundError:
            return dict.fromkeys(self._open(SINGLE_FILE).keys(), SINGLE_FILE)
        files = read_json(index, weight_map=dict).get("weight_map") or {}
        if not files or not all(isinstance(file, str) for file in files.values()):
            raise ValueError(f"{index} has no weight_map of files; copy the checkpoint anew")
        return files

    def shape(self, name: str, wanted: tuple[int | None, ...] | None = None) -> tuple[int, ...]:
        """A tensor's shape, out of its file's header; ValueError if it is not what is wanted."""
        shape = tuple(self._slice(name).get_shape())
        if wanted is not None and not (
            len(shape) == len(wanted)
            and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))
        ):
            raise ValueError(
                f"tensor {name!r} of {self.path} has shape {shape}; by config.json it has "
                f"{str(wanted).replace('None', 'd_vocab')}"
            )
        return shape

    def tensor(
        self,
        name: str,
        part: Callable[[Tensor], Tensor] = lambda whole: whole,
        *,
        shape: tuple[int | None, ...] | None = None,
    ) -> Float[Tensor, ...]:
        """A tensor or a part of it, in float32 and in memory of its own.

        Args:
            name: as in the architecture's row, whatever its prefix in the checkpoint.
            part: selects by indexing and transposing. It is given the tensor mapped from the file,
                and only what it selects is copied.
            shape: that the whole tensor has to have; None in it is any number.

        Raises:
            ValueError: there is no such tensor, it has another shape, its file is damaged, or it is
                quantised.
        """
        self.shape(name, shape)
        stored = self._slice(name)
        if stored.get_dtype() not in DTYPES:
            raise ValueError(
                f"tensor {name!r} of {self.path} is stored as {stored.get_dtype()}; one of "
                f"{', '.join(DTYPES)} is needed, so save a dequantised checkpoint"
            )
        return part(stored[:]).to(torch.float32, copy=True)

    @cached_property
    def sha256(self) -> str:
        """Of the safetensors file, as sha256sum prints it.

        Of several files: of the lines that sha256sum prints for them in the order of their names.
        """
        paths = {name: self.locate(name) for name in sorted(set(self.files.values()))}
        n_bytes = sum(path.stat().st_size for path in paths.values())
        lines = []
        with tqdm(
            desc="sha256", total=n_bytes, unit="B", unit_scale=True, disable=n_bytes < 4e9
        ) as bar:
            for name, path in paths.items():
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                        bar.update(len(block))
                lines.append(f"{digest.hexdigest()}  {name}\n")
        if len(lines) == 1:
            return lines[0].split()[0]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def resolve(self, name: str) -> str:
        """A tensor's name in this checkpoint; ValueError, with the nearest, if there is none."""
        if actual := self.architecture.resolve(name, self.files):
            return actual
        near = difflib.get_close_matches(name, self.files, n=3)
        where = sorted(set(self.files.values()))
        raise ValueError(
            f"there is no tensor {name!r} in {self.path / where[0]}"
            + (f" and {len(where) - 1} more" if len(where) > 1 else "")
            + (f"; the nearest are {', '.join(map(repr, near))}" if near else "")
        )

    def _slice(self, name: str) -> Any:
        """A tensor that is not read yet."""
        actual = self.resolve(name)
        file = self.files[actual]
        handle = self._open(file)
        if actual not in handle.keys():  # noqa: SIM118, the handle is no dict
            raise ValueError(
                f"{self.path / file} lacks {actual!r}, which {INDEX_FILE} says it holds; "
                "copy the checkpoint anew"
            )
        return handle.get_slice(actual)

    def _open(self, file: str) -> Any:
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
        locate: finds the directory's files, where they are not simply in it. Where they are, the
            weights are opened: a damaged file is better noticed now than at the first neuron.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: a file is damaged, or the architecture is not in `ARCHITECTURES`.
    """
    locate, is_here = locate or partial(_find, path), locate is None
    file = locate("config.json")
    config = read_json(file, text_config=dict, **CONFIG)
    if config.get("model_type") not in ARCHITECTURES and config.get("text_config"):  # multimodal
        config |= config["text_config"]
        check_types(config, file, **CONFIG)
    origin = config.get("rotate_core") or {}
    check_types(origin, file, quantization=dict)
    for types in (quantization := origin.get("quantization") or {}).values():
        if not isinstance(types, dict) or {type(bits) for bits in types.values()} - {int, float}:
            raise ValueError(f"{file} has quantization: {reprlib.repr(quantization)}; bits wanted")
    checkpoint = Checkpoint(path, config, architecture_of(config, file), locate)
    if is_here:
        last = checkpoint.architecture.out.name.format(layer=checkpoint.sizes.n_layers - 1)
        checkpoint.resolve(last)
    return checkpoint


def copy_edited(
    checkpoint: Checkpoint,
    directory: Path,
    edits: Iterable[tuple[str, Callable[[Tensor], object]]],
    *,
    card: str,
) -> None:
    """Copy a checkpoint's files, and edit some tensors in the copy; all of it or nothing.

    Args:
        checkpoint: of which every file of weights is fetched first.
        directory: a folder that does not exist yet.
        edits: tensors, named as for `Checkpoint.tensor`, each with a function that edits it in
            place. The function is given the tensor, in its own precision.
        card: of the copy, its README.md.

    Raises:
        FileExistsError: there is something at `directory`.
        OSError: it cannot be written.
        ValueError: there is no such tensor, or it is quantised.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists; name a folder that does not")
    for file in sorted(set(checkpoint.files.values())):
        checkpoint.locate(file)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as folder:
        copy = Path(folder) / directory.name
        shutil.copytree(checkpoint.path, copy)
        for name, edit in edits:
            actual = checkpoint.resolve(name)
            _edit_tensor(copy / checkpoint.files[actual], actual, edit)
        (copy / "README.md").unlink(missing_ok=True)  # the original's, which may be a link
        (copy / "README.md").write_text(card, encoding="utf-8")
        copy.rename(directory)


def _edit_tensor(file: Path, name: str, edit: Callable[[Tensor], object]) -> None:
    """Edit a tensor within its safetensors file: 8 bytes with the length of a header, it, data."""
    file.chmod(file.stat().st_mode | 0o200)  # a cache may keep its files read-only
    with file.open("r+b") as stream:  # no memory map: Windows renames nothing that is mapped
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))[name]
        if header["dtype"] not in DTYPES:
            raise ValueError(
                f"{name!r} of {file} is stored as {header['dtype']}: no floating-point weight"
            )
        begin, end = header["data_offsets"]
        stream.seek(8 + length + begin)
        data = bytearray(stream.read(end - begin))
        edit(torch.frombuffer(data, dtype=DTYPES[header["dtype"]]).view(header["shape"]))
        stream.seek(8 + length + begin)
        stream.write(data)


def _find(directory: Path, name: str) -> Path:
    file = directory / name
    if file.is_file():
        return file
    if name != SINGLE_FILE:
        raise FileNotFoundError(f"{directory} has no {name}; give a Hugging Face checkpoint")
    for pickle in sorted([*directory.glob("*.bin"), *directory.glob("*.pt")]):
        raise FileNotFoundError(
            f"{directory} keeps its weights in {pickle.name}, a pickle; opening one can run "
            "code, so it is not read. If you trust it, load it in transformers and "
            "save_pretrained() it, which writes safetensors"
        )
    raise FileNotFoundError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def read_json(path: Path, **types: type) -> dict[str, Any]:
    """The JSON object in a file, its fields of these types, where they are there; or ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    check_types(content, path, **types)
    return content


def check_types(content: dict[str, Any], path: Path, **types: type) -> None:
    """ValueError, with file and field, if a field is there and neither null nor of its type."""
    for name, wanted in types.items():
        value = content.get(name)
        if value is not None and type(value) is not wanted:
            raise ValueError(
                f"{path} has {name}: {reprlib.repr(value)}; a {wanted.__name__} is needed"
            )
