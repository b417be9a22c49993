"""Files and folders that are there whole or not at all: the only writer. And what made them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from tqdm import tqdm

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; its folder is made if need be.

    Of two processes that write the same file at once, one fails: where that may be, they hold a
    lock.

    Raises:
        OSError: with the path and what to do, when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path} ({len(content):,} bytes): {error.strerror}; what was written "
            "before is whole: make room and run the same command again",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed already, or never begun
            temporary.unlink()


TABLES = (".csv", ".parquet")
"""Endings of a table's file."""


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as .csv, where lists are JSON, or as .parquet; whole or not at all.

    Raises:
        ValueError: another ending.
        OSError: the disk is full.
    """
    if path.suffix == ".parquet":
        write_whole(path, table.to_parquet(index=False))
    elif path.suffix == ".csv":
        lists = {
            name: column.map(lambda row: json.dumps(row, ensure_ascii=False))
            for name, column in table.items()
            if len(column) and isinstance(column.iloc[0], list)
        }
        write_whole(path, table.assign(**lists).to_csv(index=False).encode())
    else:
        raise ValueError(f"{path}: wanted a file that ends in {' or '.join(TABLES)}")


def make_once(directory: Path, make: Callable[[Path], Path], n_bytes: int) -> Path:
    """Make a directory under another name and a lock, then rename it.

    A process that is killed leaves no directory, but a hidden folder that the next one removes.
    Of two processes at once, one makes it and the other waits.

    Args:
        directory: what to make; nothing is done where it is there.
        make: makes it inside of the empty folder that it is given, and says where.
        n_bytes: how much room that takes at most.

    Returns:
        The directory.

    Raises:
        OSError: the disk is full.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))  # ends with its process
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        log.warning("another process is making %s; waiting for it", directory.name)
        held = lock.acquire()
    with held:
        if directory.is_dir():
            return directory  # made while we waited
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(directory.parent).free
        try:
            if free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            partial.mkdir()
            make(partial).replace(directory)
        except Exception as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if not full and "No space left on device" not in str(error):  # in safetensors' words
                raise
            raise OSError(
                errno.ENOSPC,
                f"making {directory} takes up to {tqdm.format_sizeof(n_bytes, 'B')}, and "
                f"{tqdm.format_sizeof(free, 'B')} were free. Nothing was kept; make room, or "
                "choose another disk by ROTATE_CACHE",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


# --- For a record -------------------------------------------------------------------------------


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    numbers = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


def hardware() -> dict[str, str | int | None]:
    """Processor, the vector instructions and threads that PyTorch uses of it, and GPU or None."""
    import torch  # not above: what only writes files, as the book's execution does, starts sooner

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {"processor": processor, "instructions": instructions, "threads": threads, "gpu": gpu}
