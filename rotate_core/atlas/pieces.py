"""Pieces of an atlas: files that are written once, and last a list of their checksums.

    # made with 0a52d3...
    9f86d0...  neurons-00000-00031.safetensors
    60303a...  neurons-00000-00031.parquet

A piece is there when its list is. The first line says what it was made with: the model, settings
and neurons (:meth:`.Manifest.digest`), so what was made otherwise never passes for what is planned.
Files are compared with the list once in a process. ``sha256sum --check`` reads the lists, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError

from rotate_core.storage import write_whole

HEAD = "# made with "
LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)", re.ASCII)


def damaged(path: Path, why: object) -> ValueError:
    """The one error for a file of an atlas that cannot be read."""
    size = f"{path.stat().st_size:,} bytes" if path.exists() else "missing"
    return ValueError(
        f"{path} ({size}) is damaged: {why}. The same `rotate decompose` makes it again"
    )


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Name the file where reading it fails.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        yield path
    except (OSError, ValueError, pa.ArrowException, SafetensorError) as error:
        raise damaged(path, getattr(error, "strerror", None) or error) from error


def write_piece(
    listing: Path,
    made_with: str,
    files: Mapping[str, bytes],
    parts: Mapping[str, str] | None = None,
) -> None:
    """Write files beside their list, then the list.

    Args:
        listing: where the list goes.
        made_with: :meth:`.Manifest.digest`.
        files: contents by name.
        parts: checksums by name of files that these are made of.
    """
    listing.unlink(missing_ok=True)  # while its files change, the piece is not there
    for name, content in files.items():
        write_whole(listing.parent / name, content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_whole(listing, _text(made_with, {**sums, **(parts or {})}).encode())


def read_list(listing: Path, made_with: str) -> dict[str, str]:
    """The checksums of a piece by file name.

    Raises:
        ValueError: the list is missing or damaged, or the piece was made with something else.
    """
    with reading(listing):
        if not listing.is_file():  # reading a FIFO would never end
            raise ValueError("this is no file")
        text = listing.read_text("ascii")
        head, *lines = text.splitlines() or [""]
        sums = {match[2]: match[1] for match in map(LINE.fullmatch, lines) if match}
        if text != _text(head.removeprefix(HEAD), sums):
            raise ValueError("this is no list of checksums")
        if head != HEAD + made_with:
            raise ValueError("it is not of this manifest's model, settings and neurons")
    return sums


def checked(listing: Path, made_with: str, *names: str) -> list[Path]:
    """Files of a piece, once they were compared with its list.

    Args:
        listing: the piece's list.
        made_with: what it has to be made with.
        names: which files; none for all in the list.

    Raises:
        ValueError: one is missing or damaged, or made otherwise; the message names it.
    """
    sums = read_list(listing, made_with)
    paths = [listing.parent / name for name in names or sums]
    for path in paths:
        if not path.is_file() or checksum(path) != sums.get(path.name):
            raise damaged(path, f"it is not the file that {listing.name} lists")
    return paths


def is_whole(listing: Path, made_with: str) -> bool:
    """Whether a piece is there, and every file as its list says."""
    try:
        return bool(checked(listing, made_with))
    except ValueError:
        return False


def checksum(path: Path) -> str:
    """The SHA-256 of a file; taken again in this process only if the file was written since."""
    with reading(path):
        found = path.stat()
        return _sha256(path, found.st_ino, found.st_size, found.st_mtime_ns)


def forget() -> None:
    """Read all files again, whether or not they were read in this process before."""
    _sha256.cache_clear()


def _text(made_with: str, sums: Mapping[str, str]) -> str:
    return "\n".join([HEAD + made_with, *(f"{sums[name]}  {name}" for name in sums), ""])


@lru_cache(maxsize=1 << 16)
def _sha256(path: Path, *version: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
