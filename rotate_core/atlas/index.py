"""Once all shards of a layer and kind are there: p- and q-values, and the index for searches."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rotate_core.atlas.manifest import Manifest, group_path
from rotate_core.atlas.shards import is_there, read_schema, read_table, table_path, write_table
from rotate_core.decomposition import ConvergenceWarning
from rotate_core.null.calibration import Calibration, p_values, q_values

ROW_GROUP = 1 << 16
"""Rows of the index that are read together: a search reads one or two such groups."""
TO_INDEX = ["neuron", "channel", "support", "tail_ids", "tail_z"]
"""The columns of a shard's table that its part of the index is made of."""


def index_path(folder: Path, layer: int, kind: str) -> Path:
    """Where the index of a layer and kind is."""
    return folder / group_path(layer, kind) / "index.parquet"


def finish_group(folder: Path, manifest: Manifest, layer: int, kind: str) -> bool:
    """Write p- and q-values into the tables of a layer and kind, and its index.

    q-values are over all neurons of the layer and kind, a position at a time. Nothing is done
    before the last planned shard is there, or again for the same shards. The caller holds the
    group's lock.

    Returns:
        Whether the group is complete.

    Warns:
        ConvergenceWarning: some channels of the neurons did not converge.
        CalibrationWarning: the null is too small to certify any channel.
    """
    shards, nulls = (manifest.group(layer, kind, null=null) for null in (False, True))
    if not shards or not all(is_there(folder, shard) for shard in shards + nulls):
        return False
    if is_finished(folder, manifest, layer, kind):
        return True
    tables = [read_table(table_path(folder, shard)) for shard in shards]
    if nulls:
        null = torch.cat([_statistic(read_table(table_path(folder, s)), manifest) for s in nulls])
        p = [p_values(_statistic(table, manifest), null) for table in tables]
        Calibration(sum(map(len, p)), len(null), manifest.statistic).warn(stacklevel=2)
        q = q_values(torch.cat(p)).split([len(values) for values in p])
        for i, shard in enumerate(shards):
            for name, values in (("p_value", p[i]), ("q_value", q[i])):
                column = tables[i].column_names.index(name)
                tables[i] = tables[i].set_column(column, name, pa.array(values.flatten().numpy()))
            write_table(table_path(folder, shard), tables[i])
    index = sorted_index(tables).replace_schema_metadata({"shards": _digest(manifest, layer, kind)})
    write_table(
        index_path(folder, layer, kind),
        index,
        row_group_size=ROW_GROUP,
        write_statistics=["token_id"],
    )
    n_short = sum(pc.sum(pc.invert(table["converged"])).as_py() or 0 for table in tables)
    if n_short:
        warnings.warn(
            f"layer {layer}, {kind}: {n_short} of {sum(map(len, tables))} channels did not "
            "converge: raise max_iter, or leave them out by the column converged",
            ConvergenceWarning,
            stacklevel=3,
        )
    return True


def is_finished(folder: Path, manifest: Manifest, layer: int, kind: str) -> bool:
    """Whether the index of a layer and kind covers all of its planned shards."""
    path = index_path(folder, layer, kind)
    if not path.exists():
        return False
    metadata = read_schema(path).metadata or {}
    return bool(metadata.get(b"shards") == _digest(manifest, layer, kind).encode())


def _digest(manifest: Manifest, layer: int, kind: str) -> str:
    shards = sorted(
        (s.null, s.indices)
        for null in (False, True)
        for s in manifest.group(layer, kind, null=null)
    )
    return hashlib.sha256(repr(shards).encode()).hexdigest()


def _statistic(table: pa.Table, manifest: Manifest) -> Tensor:
    values = table[manifest.statistic].to_numpy().astype(np.float64)
    n_channels = pc.max(table["channel"]).as_py() + 1
    return torch.from_numpy(values).view(-1, n_channels)


def index_rows(table: pa.Table) -> pa.Table:
    """One row per token in the tail of each channel of a shard's table: where it is, and how far.

    Columns: token_id (int32), neuron (int32), channel (int16), z (float16, as stored) and support
    (float32): what a search needs to rank its hits. The rest is in the shards' tables.
    """
    table = table.combine_chunks()
    parents = pc.list_parent_indices(table["tail_ids"])
    return pa.table(
        {
            "token_id": pc.list_flatten(table["tail_ids"]),
            "neuron": table["neuron"].cast(pa.int32()).take(parents),
            "channel": table["channel"].cast(pa.int16()).take(parents),
            "z": pc.list_flatten(table["tail_z"]),
            "support": table["support"].cast(pa.float32()).take(parents),
        }
    )


def sorted_index(tables: list[pa.Table]) -> pa.Table:
    """:func:`index_rows` of all shards of a layer and kind, by token, neuron and channel.

    The channels are put in order first, so that one stable sort of the token numbers is enough.
    """
    channels = pa.concat_tables([table.select(TO_INDEX) for table in tables])
    rows = index_rows(channels.sort_by([("neuron", "ascending"), ("channel", "ascending")]))
    return rows.take(pc.sort_indices(rows["token_id"]))
