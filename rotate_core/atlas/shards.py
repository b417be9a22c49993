"""An atlas on disk: a manifest, and pieces (:mod:`.pieces`), each there whole or not at all.

    manifest.json                                settings, model, what is planned
    tokens.json                                  the strings of the vocabulary
    layer-25/out/neurons-00000-00031.parquet     one row per channel: SCHEMA
    layer-25/out/neurons-00000-00031.safetensors    the vectors
    layer-25/out/null-00000-00031.*              the same for matched vectors
    layer-25/out/calibration.parquet             p- and q-values, and
    layer-25/out/index.parquet                   tokens to channels, once all of out is there
    *.sha256                                     the list of each piece

A table holds numbers, and tables for people are made of it (:func:`readable`): tokens are
numbers, whose strings are in tokens.json. A shard never changes, whatever is added beside it.

Nothing here is executable: JSON, Parquet and safetensors are read, and what they say is checked.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from torch import Tensor

from rotate_core.atlas.manifest import Manifest, Shard
from rotate_core.atlas.pieces import (
    checked,
    damaged,
    is_whole,
    reading,
    write_piece,
)
from rotate_core.channels import POLARITIES, Channels
from rotate_core.null.evidence import EVIDENCE, TailEvidence

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
        ("polarity", pa.int8()),
        ("top_ids", pa.list_(pa.int32())),
        ("top_z", pa.list_(pa.float32())),
        ("tail_ids", pa.list_(pa.int32())),
        ("tail_z", pa.list_(pa.float16())),
    ]
)
"""A shard's table: labels, fields of :class:`.Channels`, evidence (:class:`.TailEvidence`), and the
whole tail (:class:`.Tails`), ascending by token. The tail's z are rounded by 0.05% at most, which a
search does not notice."""
VECTORS = ("vectors", "weight_vectors")
"""The fields of :class:`.Channels` that are in a shard's safetensors file."""


def list_path(folder: Path, shard: Shard) -> Path:
    """Where the list of the shard's files is: the last that is written of it."""
    return folder / f"{shard.stem}.sha256"


def is_there(folder: Path, shard: Shard) -> bool:
    """Whether the shard was written to its end."""
    return list_path(folder, shard).exists()


def write_shard(
    folder: Path, manifest: Manifest, shard: Shard, channels: Channels, evidence: TailEvidence
) -> None:
    """Write a shard's vectors, its table, and their list."""
    n_neurons, n_channels, n_top = channels.top_ids.shape
    n = n_neurons * n_channels
    top = torch.arange(n + 1) * n_top
    columns: dict[str, Any] = {
        "model": [channels.model] * n,
        "layer": [shard.layer] * n,
        "kind": [shard.kind] * n,
        "neuron": np.repeat(shard.indices, n_channels),
        "channel": np.tile(np.arange(n_channels), n_neurons),
        "top_ids": _lists(top, channels.top_ids.flatten().int()),
        "top_z": _lists(top, channels.top_z.flatten()),
        "tail_ids": _lists(evidence.tails.offsets, evidence.tails.ids),
        "tail_z": _lists(evidence.tails.offsets, evidence.tails.z.half()),
    }
    for name in set(SCHEMA.names) - set(columns):
        values = getattr(evidence if name in EVIDENCE else channels, name)
        columns[name] = values.flatten().numpy()
    vectors = {name: getattr(channels, name).contiguous() for name in VECTORS}
    listing = list_path(folder, shard)
    table = table_bytes(pa.table(columns, schema=SCHEMA))
    files = {f"{listing.stem}.safetensors": save(vectors), f"{listing.stem}.parquet": table}
    write_piece(listing, manifest.digest(shard), files)


def _lists(offsets: Tensor, values: Tensor) -> pa.ListArray:
    """A column of lists: row i is ``values[offsets[i]:offsets[i + 1]]``."""
    return pa.ListArray.from_arrays(pa.array(offsets.int().numpy()), pa.array(values.numpy()))


def read_shard(folder: Path, manifest: Manifest, shard: Shard) -> dict[str, Tensor]:
    """The fields of :class:`.Channels` that a shard holds: (n_neurons, n_channels, ...) each.

    Raises:
        ValueError: a file is missing or damaged.
    """
    fields = {field.name for field in dataclasses.fields(Channels)} - {"model", "layer", "kind"}
    table = shard_table(folder, manifest, shard, [name for name in SCHEMA.names if name in fields])
    shape = (len(shard.indices), manifest.n_channels_of(*shard.group))
    (path,) = _checked(folder, manifest, shard, ".safetensors")
    with reading(path):
        arrays = load(path.read_bytes())
        if missing := set(VECTORS) - set(arrays):
            raise ValueError(f"without {', '.join(sorted(missing))}")
        if arrays["vectors"].shape[:2] != shape:
            raise ValueError(f"wanted {shape[0]} neurons x {shape[1]} channels")
    for name in table.column_names:
        is_list = pa.types.is_list(table[name].type)
        values = pc.list_flatten(table[name]) if is_list else table[name]
        arrays[name] = torch.tensor(values.to_numpy()).view((*shape, -1) if is_list else shape)
    arrays["top_ids"] = arrays["top_ids"].long()
    return arrays


def _checked(folder: Path, manifest: Manifest, shard: Shard, suffix: str) -> list[Path]:
    """One of the shard's files, compared with its list."""
    listing = list_path(folder, shard)
    return checked(listing, manifest.digest(shard), f"{listing.stem}{suffix}")


def shard_table(
    folder: Path, manifest: Manifest, shard: Shard, columns: Sequence[str] | None = None
) -> pa.Table:
    """Columns of a shard's table; None for all.

    Raises:
        ValueError: it is missing or damaged, or lacks a column.
    """
    (path,) = _checked(folder, manifest, shard, ".parquet")
    table = read_table(path, columns)
    if len(table) != manifest.n_channels_in(shard):
        raise damaged(path, f"{len(table)} rows, wanted {manifest.n_channels_in(shard)}")
    return table


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    """A Parquet file; options as of pyarrow's."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def read_table(
    path: Path, columns: Sequence[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    """Read columns and rows of a Parquet file; None for all.

    Raises:
        ValueError: it is no Parquet file, or lacks a column.
    """
    with reading(path):
        table = pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    return table


def read_columns(
    folder: Path, manifest: Manifest, shards: Sequence[Shard], columns: Sequence[str]
) -> pa.Table:
    """Columns of the shards' tables, one below the other; ``top_tokens`` are their ``top_ids``.

    Raises:
        ValueError: a table is damaged, or there is no such column.
    """
    fields = {name: pc.field("top_ids" if name == "top_tokens" else name) for name in columns}
    paths = [path for shard in shards for path in _checked(folder, manifest, shard, ".parquet")]
    try:
        dataset = ds.dataset(list(map(str, paths)), schema=SCHEMA, format="parquet")
        return dataset.to_table(columns=fields)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{folder}: {error}") from error


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


def write_tokens(folder: Path, manifest: Manifest, tokens: Sequence[str]) -> None:
    """Write the strings of the vocabulary, where they are not there yet."""
    if not is_whole(folder / "tokens.sha256", manifest.digest()):
        content = json.dumps(tokens, ensure_ascii=False, indent=0).encode()
        write_piece(folder / "tokens.sha256", manifest.digest(), {"tokens.json": content})


def read_tokens(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Read the strings of the vocabulary.

    Raises:
        ValueError: the file is missing or damaged.
    """
    (path,) = checked(folder / "tokens.sha256", manifest.digest(), "tokens.json")
    with reading(path):
        tokens = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tokens, list) or not set(map(type, tokens)) <= {str}:
            raise ValueError("not a list of strings")
    return tuple(tokens)
