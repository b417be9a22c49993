"""Files and folders that are there whole or not at all: the only writer; and what made them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


def damaged(path: Path, why: object) -> ValueError:
    """The one error for a file of an atlas that cannot be read."""
    size = f"{path.stat().st_size:,} bytes" if path.exists() else "missing"
    return ValueError(
        f"{path} ({size}) is damaged: {why}. Delete this shard's files and run the same "
        "`rotate decompose` again"
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it. The caller holds the file's lock.

    Raises:
        OSError: with the path and what to do, when the disk is full.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
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
    with _locked(directory.with_name(f".{directory.name}.lock"), directory.name):
        if directory.is_dir():
            return directory  # made while we waited
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(directory.parent).free
        try:
            if free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            partial.mkdir()
            os.replace(make(partial), directory)
        except Exception as error:
            if not _is_disk_full(error):
                raise
            raise OSError(
                errno.ENOSPC,
                f"making {directory} takes up to {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                "were free. Nothing was kept; make room, or choose another disk by ROTATE_CACHE",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.warning("another process is making %s; waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)  # in safetensors' words


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
