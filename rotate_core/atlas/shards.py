"""An atlas on disk: a manifest, and shards of a table and vectors, each there whole or not at all.

    manifest.json                              settings, model, what is planned
    tokens.json                                the strings of the vocabulary
    layer-25/out/neurons-00000-00031.parquet   one row per channel: SCHEMA
    layer-25/out/neurons-00000-00031.safetensors    the vectors
    layer-25/out/null-00000-00031.*            the same for matched vectors
    layer-25/out/index.parquet                 tokens to channels, once all shards of out are there

A table holds numbers, and tables for people are made of it (:func:`readable`): tokens are
numbers, whose strings are in tokens.json. A shard's table is written last, so a shard is there when
its table is.

Nothing here is executable: JSON, Parquet and safetensors are read, and what they say is checked.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rotate_core.atlas.manifest import Shard
from rotate_core.channels import POLARITIES, Channels
from rotate_core.null.evidence import EVIDENCE, TailEvidence
from rotate_core.storage import damaged, write_whole

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("layer", pa.int64()),
        ("kind", pa.string()),
        ("neuron", pa.int64()),
        ("channel", pa.int64()),
        ("kurtosis", pa.float64()),
        ("skewness", pa.float64()),
        ("cosine", pa.float32()),
        ("n_masked", pa.int64()),
        ("n_iter", pa.int64()),
        ("converged", pa.bool_()),
        ("objective", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("support", pa.float64()),
        ("own_support", pa.float64()),
        ("core", pa.float64()),
        ("peak", pa.float64()),
        ("share", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("polarity", pa.int8()),
        ("top_ids", pa.list_(pa.int32())),
        ("top_z", pa.list_(pa.float32())),
        ("tail_ids", pa.list_(pa.int32())),
        ("tail_z", pa.list_(pa.float16())),
    ]
)
"""A shard's table: labels, fields of :class:`.Channels`, evidence (:class:`.TailEvidence`), null
p- and q-values until the layer and kind are complete, and the whole tail (:class:`.Tails`),
ascending by token. The tail's z are rounded by 0.05% at most, which a search does not notice."""
VECTORS = ("vectors", "weight_vectors")
"""The fields of :class:`.Channels` that are in a shard's safetensors file."""


def is_there(folder: Path, shard: Shard) -> bool:
    """Whether the shard is whole: its table is written last."""
    return table_path(folder, shard).exists()


def table_path(folder: Path, shard: Shard) -> Path:
    """Where the shard's table is."""
    return folder / f"{shard.stem}.parquet"


def write_shard(folder: Path, shard: Shard, channels: Channels, evidence: TailEvidence) -> None:
    """Write a shard's vectors, then its table, without p- and q-values."""
    n_neurons, n_channels, n_top = channels.top_ids.shape
    n = n_neurons * n_channels
    top = torch.arange(n + 1) * n_top
    columns: dict[str, Any] = {
        "model": [channels.model] * n,
        "layer": [shard.layer] * n,
        "kind": [shard.kind] * n,
        "neuron": np.repeat(shard.indices, n_channels),
        "channel": np.tile(np.arange(n_channels), n_neurons),
        "p_value": [None] * n,
        "q_value": [None] * n,
        "top_ids": _lists(top, channels.top_ids.flatten().int()),
        "top_z": _lists(top, channels.top_z.flatten()),
        "tail_ids": _lists(evidence.tails.offsets, evidence.tails.ids),
        "tail_z": _lists(evidence.tails.offsets, evidence.tails.z.half()),
    }
    for name in set(SCHEMA.names) - set(columns):
        values = getattr(evidence if name in EVIDENCE else channels, name)
        columns[name] = values.flatten().numpy()
    vectors = {name: getattr(channels, name).contiguous() for name in VECTORS}
    path = table_path(folder, shard)
    write_whole(path.with_suffix(".safetensors"), save(vectors))
    write_table(path, pa.table(columns, schema=SCHEMA))


def _lists(offsets: Tensor, values: Tensor) -> pa.ListArray:
    """A column of lists: row i is ``values[offsets[i]:offsets[i + 1]]``."""
    return pa.ListArray.from_arrays(pa.array(offsets.int().numpy()), pa.array(values.numpy()))


def read_shard(folder: Path, shard: Shard, n_channels: int) -> dict[str, Tensor]:
    """The fields of :class:`.Channels` that a shard holds: (n_neurons, n_channels, ...) each.

    p- and q-values that are not there yet are NaN.

    Raises:
        ValueError: a file is missing or damaged.
    """
    path = table_path(folder, shard)
    fields = {field.name for field in dataclasses.fields(Channels)} - {"model", "layer", "kind"}
    table = read_table(path, [name for name in SCHEMA.names if name in fields])
    shape = (len(shard.indices), n_channels)
    with reading(path.with_suffix(".safetensors")) as file:
        arrays = load(file.read_bytes())
        if missing := set(VECTORS) - set(arrays):
            raise ValueError(f"without {', '.join(sorted(missing))}")
    if len(table) != shape[0] * shape[1] or arrays["vectors"].shape[:2] != shape:
        raise damaged(path, f"wanted {shape[0]} neurons x {shape[1]} channels")
    for name in table.column_names:
        is_list = pa.types.is_list(table[name].type)
        values = pc.list_flatten(table[name]) if is_list else table[name]
        arrays[name] = torch.tensor(values.to_numpy()).view((*shape, -1) if is_list else shape)
    arrays["top_ids"] = arrays["top_ids"].long()
    return arrays


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Name the file where reading it fails.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        yield path
    except (OSError, ValueError, pa.ArrowException, SafetensorError) as error:
        raise damaged(path, error) from error


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file, whole or not at all; options as of pyarrow's."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    write_whole(path, buffer.getvalue())


def read_table(
    path: Path, columns: Sequence[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    """Read columns and rows of a Parquet file; None for all.

    Raises:
        ValueError: it is missing or damaged, or lacks a column.
    """
    with reading(path):
        table = pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    return table


def read_columns(folder: Path, shards: Sequence[Shard], columns: Sequence[str]) -> pa.Table:
    """Columns of the shards' tables, one below the other; ``top_tokens`` are their ``top_ids``.

    Raises:
        ValueError: a table is damaged, or there is no such column.
    """
    fields = {name: pc.field("top_ids" if name == "top_tokens" else name) for name in columns}
    paths = [table_path(folder, shard) for shard in shards]
    try:
        dataset = ds.dataset(list(map(str, paths)), schema=SCHEMA, format="parquet")
        table = dataset.to_table(columns=fields)
    except (pa.ArrowException, OSError) as error:
        for path in paths:  # name the one that it is
            read_table(path)
        raise ValueError(f"{folder}: {error}") from error
    return table


def readable(table: pa.Table, tokens: Sequence[str]) -> pd.DataFrame:
    """A table for people: strings for the numbers of ``token`` and ``top_tokens``, and polarity."""
    for i, name in enumerate(table.column_names):
        if name == "token":
            table = table.set_column(i, name, pc.take(pa.array(tokens), table[name]))
        elif name == "top_tokens":
            strings = pa.array(tokens)
            lists = [
                pa.ListArray.from_arrays(ids.offsets, strings.take(ids.values))
                for ids in table[name].chunks
            ]
            table = table.set_column(i, name, pa.chunked_array(lists, pa.list_(pa.string())))
    frame = table.to_pandas()
    if "polarity" in frame:
        frame["polarity"] = frame["polarity"].map(POLARITIES)
    return frame


def write_tokens(folder: Path, tokens: Sequence[str]) -> None:
    """Write the strings of the vocabulary."""
    write_whole(folder / "tokens.json", json.dumps(tokens, ensure_ascii=False, indent=0).encode())


def read_tokens(folder: Path) -> tuple[str, ...]:
    """Read the strings of the vocabulary."""
    with reading(folder / "tokens.json") as path:
        tokens = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tokens, list) or not set(map(type, tokens)) <= {str}:
            raise ValueError("not a list of strings")
    return tuple(tokens)
