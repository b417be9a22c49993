"""An atlas on disk: a manifest, and shards of a table and vectors, each there whole or not at all.

    manifest.json                              settings, model, what is planned
    tokens.json                                the strings of the vocabulary
    layer-25/out/neurons-00000-00031.parquet   one row per channel: figures, top tokens, whole tail
    layer-25/out/neurons-00000-00031.safetensors    the vectors
    layer-25/out/null-00000-00031.*            the same for matched vectors
    layer-25/out/index.parquet                 tokens to channels, once all shards of out are there

A table holds numbers: tokens as int32 (their strings are in tokens.json), the tail's side as int8.
:func:`readable` puts the strings in. What a table has beside the columns of
:meth:`Channels.table`:

    top_ids, top_z     as in :class:`Channels`: the heaviest tokens, in the tail or not
    tail_ids, tail_z   the whole tail (:class:`.Tails`), ascending by token; z in
                       float16, whose error of 0.05% is below what a search's order is good for

Nothing here is executable: JSON, Parquet and safetensors are read, and what they say is checked.
A file is written under a temporary name and renamed; a shard's table comes last, so a shard is
there when its table is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotate_core.atlas.manifest import Shard
from rotate_core.channels import POLARITIES, Channels
from rotate_core.null.evidence import Tails
from rotate_core.storage import damaged, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

ARRAYS = ("vectors", "weight_vectors")
"""What a shard's safetensors file holds, as fields of :class:`Channels`."""


def is_there(folder: Path, shard: Shard) -> bool:
    """Whether the shard is whole: its table is written last."""
    return table_path(folder, shard).exists()


def table_path(folder: Path, shard: Shard) -> Path:
    """Where the shard's table is."""
    return folder / f"{shard.stem}.parquet"


def write_shard(
    folder: Path,
    shard: Shard,
    channels: Channels,
    tails: Tails,
    extra: dict[str, Tensor] | None = None,
) -> None:
    """Write a shard's vectors, then its table; ``extra`` columns are (n_neurons, n_channels)."""
    import pyarrow as pa
    from safetensors.torch import save

    frame = channels.table(k=1).drop(columns=["polarity", "top_tokens"])
    for name, values in (extra or {}).items():
        frame[name] = values.flatten().numpy()
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    for name in ("p_value", "q_value"):  # known once all of the layer and kind is there
        table = table.append_column(name, pa.nulls(len(table), pa.float64()))
    n_top = channels.top_ids.shape[2]
    top = torch.arange(len(table) + 1) * n_top
    for name, column in (
        ("polarity", pa.array(channels.polarity.flatten().numpy().astype("int8"))),
        ("top_ids", _lists(top, channels.top_ids.flatten().int())),
        ("top_z", _lists(top, channels.top_z.flatten())),
        ("tail_ids", _lists(tails.offsets, tails.ids)),
        ("tail_z", _lists(tails.offsets, tails.z.half())),
    ):
        table = table.append_column(name, column)
    arrays = {name: getattr(channels, name).contiguous() for name in ARRAYS}
    path = table_path(folder, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".safetensors"), save(arrays))
    write_table(path, table)


def _lists(offsets: Tensor, values: Tensor) -> pa.ListArray:
    """A column of lists: row i is ``values[offsets[i]:offsets[i + 1]]``."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.int().numpy()), pa.array(values.numpy()))


def readable(table: pa.Table, tokens: pa.Array) -> pa.Table:
    """A shard's table with strings for the tail's side and for token numbers in ``top_tokens``.

    Args:
        table: any columns of a shard's table, ``top_ids`` under the name ``top_tokens``.
        tokens: strings of the vocabulary.
    """
    import pyarrow as pa

    signs = pa.array([POLARITIES[side] for side in (0, 1, -1)])  # by side modulo 3
    columns = {}
    for name in table.column_names:
        chunks, dtype = table[name].chunks, table[name].type
        if name == "polarity":
            dtype = pa.string()
            chunks = [signs.take(pa.array(sides.to_numpy() % 3)) for sides in chunks]
        elif name == "top_tokens":
            dtype = pa.list_(pa.string())
            chunks = [pa.ListArray.from_arrays(i.offsets, tokens.take(i.values)) for i in chunks]
        columns[name] = pa.chunked_array(chunks, dtype)
    return pa.table(columns)


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file, whole or not at all; options as of pyarrow's."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    write_whole(path, buffer.getvalue())


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file.

    Raises:
        ValueError: it is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise damaged(path, f"without {', '.join(sorted(missing))}")
        return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file and its metadata; raises like :func:`read_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read a shard's safetensors file.

    Raises:
        ValueError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        arrays = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error
    if missing := set(ARRAYS) - set(arrays):
        raise damaged(path, f"without {', '.join(sorted(missing))}")
    return arrays


def write_tokens(folder: Path, tokens: Sequence[str]) -> None:
    """Write the strings of the vocabulary."""
    write_whole(folder / "tokens.json", json.dumps(tokens, ensure_ascii=False, indent=0).encode())


def read_tokens(folder: Path) -> tuple[str, ...]:
    """Read the strings of the vocabulary."""
    path = folder / "tokens.json"
    try:
        tokens = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tokens, list) or not set(map(type, tokens)) <= {str}:
            raise ValueError("not a list of strings")
    except (ValueError, OSError) as error:
        raise damaged(path, error) from error
    return tuple(tokens)
