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

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.manifest import Manifest, group_path
from rotate_core.shards import is_there, read_schema, read_table, table_path, write_table
from rotate_core.support import p_values, q_values

ROW_GROUP = 1 << 14
"""Rows of the index that are read together: a search reads one or two such groups."""
INDEX_COLUMNS = ("model", "layer", "kind", "neuron", "channel", "support", "p_value", "q_value")


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
        ConvergenceWarning: some channels of the neurons hit ``max_iter``.
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
        q = q_values(torch.cat(p)).split([len(values) for values in p])
        for i, shard in enumerate(shards):
            for name, values in (("p_value", p[i]), ("q_value", q[i])):
                column = tables[i].column_names.index(name)
                tables[i] = tables[i].set_column(column, name, pa.array(values.flatten().numpy()))
            write_table(table_path(folder, shard), tables[i])
    threshold = manifest.settings_of(layer, kind).threshold
    index = pa.concat_tables([index_rows(table, threshold) for table in tables])
    index = index.sort_by(
        [("word", "ascending"), ("neuron", "ascending"), ("channel", "ascending")]
    )
    index = index.replace_schema_metadata({"shards": _digest(manifest, layer, kind)})
    write_table(index_path(folder, layer, kind), index, row_group_size=ROW_GROUP)
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


def normalise(word: str) -> str:
    """How tokens are compared in a search: without space around them, in lower case."""
    return str(pc.utf8_lower(pc.utf8_trim_whitespace(pa.scalar(word))).as_py())


def index_rows(table: pa.Table, threshold: float) -> pa.Table:
    """A row for each token in each channel's tail: word, token as it is, z, and the channel."""
    table = table.combine_chunks()
    parent = pc.list_parent_indices(table["top_tokens"])
    tokens, z = pc.list_flatten(table["top_tokens"]), pc.list_flatten(table["top_z"])
    rows = table.select(list(INDEX_COLUMNS)).take(parent)
    rows = rows.append_column("token", tokens).append_column("z", z)
    rows = rows.append_column("word", pc.utf8_lower(pc.utf8_trim_whitespace(tokens)))
    return rows.filter(pc.greater(pc.abs(z), threshold))
