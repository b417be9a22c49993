"""How long a search takes in an atlas of ten million tail tokens, and what its index takes to make.

    python benchmarks/atlas.py [--rows 10000000] [--neurons 1536] [--folder FOLDER]

Everything but the figures in it is real: shards are written as a build writes them, the index is
made by finish_group. Tokens follow Zipf's law, so that common ones are in almost every tail. Writes
atlas.json beside this file:

search    over all layers and kinds, in seconds of the clock and of the processor (they differ where
          others use the machine). Cold: the first in a new process, with the atlas's files out of
          the page cache, imports done. Warm: the best of five more there; each opens the atlas.
finish    the index of one layer and kind of whole size: seconds, the most memory that the process
          held, and the same searches in this one index.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401 (before anything is timed)
import pyarrow.parquet as pq
import torch
from measured import keep

from rotate_core.atlas import Atlas
from rotate_core.atlas.index import finish_group, group_list_path, look_up, token_ids
from rotate_core.atlas.manifest import Manifest, Shard
from rotate_core.atlas.manifest_file import write_manifest
from rotate_core.atlas.shards import write_shard, write_tokens
from rotate_core.channels import Channels
from rotate_core.null.evidence import EVIDENCE, TailEvidence, Tails
from rotate_core.rotation.settings import Settings

KINDS, N_CHANNELS, D_VOCAB = ("gate", "in", "out"), 50, 128_000
DRAWN, TAIL = 400, 300
"""Tokens drawn for each tail; about so many of them are different."""
TOKENS = [f" w{i:06d}" for i in range(D_VOCAB)]
WORDS = {"rare": "w120000", "middling": "w003000", "common": "w000020"}


def synthetic(shard: Shard) -> tuple[Channels, TailEvidence]:
    """Channels of a shard and their evidence, drawn at random."""
    random = np.random.default_rng([shard.layer, KINDS.index(shard.kind), shard.indices[0]])
    shape = (len(shard.indices), N_CHANNELS)
    n = shape[0] * shape[1]
    token = np.minimum((D_VOCAB ** random.random((n, DRAWN))).astype(np.int64), D_VOCAB - 1)
    keys = np.unique(np.arange(n)[:, None] * D_VOCAB + token)
    lengths = np.bincount(keys // D_VOCAB, minlength=n)
    tails = Tails(
        torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        torch.from_numpy((keys % D_VOCAB).astype(np.int32)),
        torch.from_numpy(4 + random.exponential(1, len(keys)).astype(np.float32)),
    )

    def drawn() -> torch.Tensor:
        return torch.from_numpy(random.normal(2, 1, shape))

    whole = torch.ones(shape, dtype=torch.int64)
    channels = Channels(
        vectors=torch.zeros(*shape, 1),
        weight_vectors=torch.zeros(shape[0], 1),
        **{name: drawn() for name in ("kurtosis", "skewness", "cosine", "objective")},
        gradient_norm=drawn(),
        n_iter=whole,
        converged=whole.bool(),
        n_masked=whole,
        polarity=whole.to(torch.int8),
        top_ids=torch.from_numpy(token[:, :50]).view(*shape, 50),
        top_z=torch.from_numpy(random.normal(6, 1, (*shape, 50)).astype(np.float32)),
        vocabulary=None,
        settings=Settings(),
        seed=0,
        indices=shard.indices,
        model="synthetic",
        layer=shard.layer,
        kind=shard.kind,
    )
    return channels, TailEvidence(tails=tails, **{name: drawn() for name in EVIDENCE})


def make(folder: Path, n_layers: int, kinds: tuple[str, ...], n_neurons: int) -> Manifest:
    """An atlas without its indices."""
    shards = tuple(
        Shard(layer, kind, tuple(range(start, min(start + 128, n_neurons))))
        for layer in range(n_layers)
        for kind in kinds
        for start in range(0, n_neurons, 128)
    )
    manifest = Manifest(
        model="synthetic",
        checksum="",
        settings=Settings(),
        n_channels=N_CHANNELS,
        seed=0,
        null=0,
        statistic="core",
        side="auto",
        fold_norm=False,
        versions={},
        shards=shards,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest)
    write_tokens(folder, manifest, TOKENS)
    for shard in shards:
        write_shard(folder, manifest, shard, *synthetic(shard))
    return manifest


def ask(folder: Path, word: str) -> dict[str, Any]:
    """Search in this process, which has not done so before."""
    seconds, cpu_seconds = [], []
    for _ in range(6):
        started = time.perf_counter(), time.process_time()
        atlas = Atlas.open(folder)
        atlas.search(word)
        seconds.append(round(time.perf_counter() - started[0], 3))
        cpu_seconds.append(round(time.process_time() - started[1], 3))
    manifest = atlas.manifest
    return {
        "hits": len(look_up(folder, manifest, token_ids(manifest, atlas.tokens, word))),
        "cold": seconds[0],
        "cold_cpu": cpu_seconds[0],
        "warm": min(seconds[1:]),
        "warm_cpu": min(cpu_seconds[1:]),
    }


def ask_cold(folder: Path, word: str) -> dict[str, Any]:
    """Search in a new process, with the atlas's files out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    command = [sys.executable, __file__, "--folder", str(folder), "--ask", word]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def finish(folder: Path, layer: int, kind: str) -> dict[str, Any]:
    """Write the index of one layer and kind in this process."""
    manifest = Atlas.open(folder).manifest
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    finish_group(folder, manifest, layer, kind)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = group_list_path(folder, layer, kind).with_suffix(".parquet").stat().st_size
    tables = sum(path.stat().st_size for path in folder.rglob(f"{kind}/neurons-*.parquet"))
    return {
        "seconds": round(seconds, 1),
        "peak_gigabytes": round(after / 2**20, 2),
        "before_gigabytes": round(before / 2**20, 2),
        "index_megabytes": round(size / 1e6),
        "tables_megabytes": round(tables / 1e6),
    }


def n_rows(folder: Path) -> int:
    """Rows of all indices."""
    return sum(pq.read_metadata(path).num_rows for path in folder.rglob("index.parquet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="of all indices, about")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--neurons", type=int, default=1536, help="of the index that is timed")
    parser.add_argument("--folder", type=Path, help="where the atlas goes, to be kept")
    parser.add_argument("--ask", help="(in a process of its own) search the folder for a word")
    parser.add_argument("--finish", action="store_true", help="(likewise) write one index")
    arguments = parser.parse_args()
    if arguments.ask or arguments.finish:
        folder = arguments.folder
        figures = ask(folder, arguments.ask) if arguments.ask else finish(folder, 0, "out")
        print(json.dumps(figures))
        return

    file = Path(__file__).with_suffix(".json")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "many"
        n_neurons = math.ceil(arguments.rows / (arguments.layers * len(KINDS) * N_CHANNELS * TAIL))
        manifest = make(folder, arguments.layers, KINDS, n_neurons)
        for group in manifest.groups():
            finish_group(folder, manifest, *group)
        size = sum(path.stat().st_size for path in folder.rglob("index.parquet"))
        searched = {
            "index_rows": n_rows(folder),
            "index_files": len(manifest.groups()),
            "index_megabytes": round(size / 1e6),
            **{name: ask_cold(folder, word) for name, word in WORDS.items()},
        }
        keep(file, "search", searched)

        whole = Path(scratch) / "whole"
        make(whole, 1, ("out",), arguments.neurons)
        command = [sys.executable, __file__, "--folder", str(whole), "--finish"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        taken = {"index_rows": n_rows(whole)} | json.loads(result.stdout)
        taken |= {name: ask_cold(whole, word) for name, word in WORDS.items()}
        keep(file, "finish", taken)


if __name__ == "__main__":
    main()
