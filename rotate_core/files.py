"""Files that are there whole or not at all, and one error for those that are damaged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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
