"""Builds in processes of their own: forked from a server that has imported everything, so that a
hundred of them take minutes, and killed for real."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from rotate_core import Settings, load_model
from rotate_core.atlas import Atlas, manifest, pieces
from rotate_core.atlas.workers import Work

ONE_GROUP = {
    "layers": [1],
    "kinds": ["out"],
    "neurons": 6,
    "n_channels": 2,
    "null": 9,
    "settings": Settings(threshold=2.5),
    "progress": False,
}
"""Of the smallest atlas with q-values."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rotate_core.atlas.atlas", "scipy.stats"])


def start(checkpoint: Path, folder: Path, options: dict[str, Any], **how: Any) -> BaseProcess:
    """A process that builds an atlas."""
    process = PROCESSES.Process(target=_build, args=(checkpoint, folder, options), kwargs=how)
    process.start()
    return process


def finish(*processes: BaseProcess) -> None:
    """Wait for builds, which have to end well."""
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an atlas but its locks."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.parent.name != ".locks")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def _build(
    checkpoint: Path, folder: Path, options: dict[str, Any], seed: int = 0, pause: float = 0
) -> None:
    """Build, with random pauses of some seconds at most before and after each file and shard."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a lock between processes would outlive one that is killed
    moments = random.Random(seed)

    def paused(function: Any, share: float = 1) -> Any:
        def call(*arguments: Any) -> Any:
            time.sleep(moments.uniform(0, share * pause))
            result = function(*arguments)
            time.sleep(moments.uniform(0, share * pause))
            return result

        return call

    if pause:
        manifest.write_whole = pieces.write_whole = paused(pieces.write_whole, 0.1)
        Work.compute = paused(Work.compute)
        time.sleep(moments.uniform(0, pause))
    Atlas.build(folder, load_model(checkpoint), progress=False, **options)
