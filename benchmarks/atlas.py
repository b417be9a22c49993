"""How long a search takes in an atlas of ten million channels, the indices synthetic.

    python benchmarks/atlas.py [--channels 10000000] [--tokens 20] [--folder FOLDER]

Writes results/benchmarks/atlas.json. The indices have the columns, the order and the row groups of
real ones, a file a layer and kind; words follow Zipf's law, so that common ones have many hits.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rotate_core.atlas import Atlas
from rotate_core.calibration import ROW_GROUP, _digest, index_path
from rotate_core.manifest import Manifest, Shard, write_manifest
from rotate_core.search import _look_up
from rotate_core.settings import Settings
from rotate_core.shards import write_table, write_tokens

N_LAYERS, KINDS, N_CHANNELS, D_VOCAB = 32, ("gate", "in", "out"), 50, 128_000


def synthetic_index(
    layer: int, kind: str, n_channels: int, n_tokens: int, words: pa.Array
) -> pa.Table:
    """Rows as calibration.index_rows gives them, for channels of ``n_tokens`` tokens each."""
    random = np.random.default_rng([layer, KINDS.index(kind)])
    n = n_channels * n_tokens
    row = np.repeat(np.arange(n_channels), n_tokens)
    token = np.minimum((D_VOCAB ** random.random(n)).astype(np.int64), D_VOCAB - 1)
    order = np.argsort(token, kind="stable")
    row, token = row[order], token[order]
    support = random.normal(2, 1, n_channels)
    text = pa.DictionaryArray.from_arrays(token.astype(np.int32), words).cast(pa.string())
    return pa.table(
        {
            "model": pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), ["synthetic"]).cast(
                "string"
            ),
            "layer": np.full(n, layer),
            "kind": pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), [kind]).cast("string"),
            "neuron": row // N_CHANNELS,
            "channel": row % N_CHANNELS,
            "support": support[row],
            "p_value": random.random(n_channels)[row],
            "q_value": random.random(n_channels)[row],
            "token": pc.binary_join_element_wise(" ", text, ""),
            "z": random.normal(6, 1, n).astype(np.float32),
            "word": text,
        }
    )


def make(folder: Path, n_channels: int, n_tokens: int) -> Atlas:
    """An atlas of indices alone."""
    each = n_channels // (N_LAYERS * len(KINDS))
    neurons = tuple(range(-(-each // N_CHANNELS)))
    shards = tuple(Shard(layer, kind, neurons) for layer in range(N_LAYERS) for kind in KINDS)
    words = pa.array([f"w{i:06d}" for i in range(D_VOCAB)])
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
    write_manifest(folder, manifest)
    write_tokens(folder, words.to_pylist())
    for shard in shards:
        index = synthetic_index(*shard.group, each, n_tokens, words)
        index = index.replace_schema_metadata({"shards": _digest(manifest, *shard.group)})
        path = index_path(folder, *shard.group)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, index, row_group_size=ROW_GROUP)
    return Atlas.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=10_000_000)
    parser.add_argument("--tokens", type=int, default=20, help="in a channel's tail")
    parser.add_argument("--folder", type=Path, help="where the atlas goes, to be kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        atlas = make(folder, arguments.channels, arguments.tokens)
        made = time.perf_counter() - started
        n_bytes = sum(path.stat().st_size for path in folder.rglob("index.parquet"))
        result = {
            "channels": arguments.channels,
            "index_rows": arguments.channels * arguments.tokens,
            "index_gigabytes": round(n_bytes / 1e9, 2),
            "seconds_to_make": round(made, 1),
            "processor": platform.processor() or platform.machine(),
        }
        for name, token in (("rare", 120_000), ("middling", 3_000), ("common", 20)):
            word, seconds = f"w{token:06d}", []
            for _ in range(3):
                started = time.perf_counter()
                n_hits = len(_look_up(atlas, word))
                seconds.append(time.perf_counter() - started)
            result[name] = {
                "hits": n_hits,
                "first": round(seconds[0], 3),
                "best": round(min(seconds), 3),
            }
    target = Path(__file__).parents[1] / "results" / "benchmarks" / "atlas.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
