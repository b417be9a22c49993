"""An atlas on disk: a manifest, and shards of a table and vectors, each there whole or not at all.

    manifest.json                              settings, model, what is planned
    tokens.json                                the strings of the vocabulary
    layer-25/out/neurons-00000-00031.parquet   a row a channel
    layer-25/out/neurons-00000-00031.safetensors
    layer-25/out/null-00000-00031.*            the same for matched vectors
    layer-25/out/index.parquet                 words to channels, once all shards of out are there

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

from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.files import damaged, write_whole
from rotate_core.manifest import Shard

if TYPE_CHECKING:
    import pyarrow as pa

ARRAYS = ("vectors", "weight_vectors", "top_ids", "top_z")
"""What a shard's safetensors file holds, as fields of :class:`Channels`."""


def is_there(folder: Path, shard: Shard) -> bool:
    """Whether the shard is whole: its table is written last."""
    return table_path(folder, shard).exists()


def table_path(folder: Path, shard: Shard) -> Path:
    """Where the shard's table is."""
    return folder / f"{shard.stem}.parquet"


def write_shard(
    folder: Path, shard: Shard, channels: Channels, extra: dict[str, Tensor] | None = None
) -> None:
    """Write a shard's vectors, then its table; ``extra`` columns are (n_neurons, n_channels)."""
    import pandas as pd
    import pyarrow as pa
    from safetensors.torch import save

    frame = channels.table(k=channels.top_ids.shape[2])
    frame["top_z"] = list(channels.top_z.flatten(0, 1).numpy())
    for name, values in (extra or {}).items():
        frame[name] = values.flatten().numpy()
    for name in ("p_value", "q_value"):  # known once all of the layer and kind is there
        frame[name] = pd.Series(dtype="float64")
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    arrays = {name: getattr(channels, name).contiguous() for name in ARRAYS}
    path = table_path(folder, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".safetensors"), save(arrays))
    write_table(path, table)


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
        return pq.ParquetFile(path).read(columns)
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
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError("not a list of strings")
    except (ValueError, OSError) as error:
        raise damaged(path, error) from error
    return tuple(tokens)
