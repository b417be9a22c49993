"""What follows from all shards of a layer and kind: p- and q-values, and the index for a search.

The index leads from tokens to the channels with them in their tail. It is sorted by token, so a
search reads a small part of it. Both are one piece, whose list names the lists of the shards that
it was made of: it counts for these only, and is made again where one of them is another.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rotate_core.atlas.manifest import Manifest, Shard, group_path
from rotate_core.atlas.pieces import (
    checked,
    checksum,
    damaged,
    read_list,
    write_piece,
)
from rotate_core.atlas.shards import (
    SCHEMA,
    is_there,
    list_path,
    read_table,
    shard_table,
    table_bytes,
)
from rotate_core.decomposition import ConvergenceWarning
from rotate_core.null.calibration import Calibration, p_values, q_values

ROW_GROUP = 1 << 16
"""Rows of the index that are read together: a search reads one or two such groups."""
INDEXED = ["neuron", "channel", "support", "tail_ids", "tail_z"]
"""The columns of a shard's table that its part of the index is made of."""
CHANNEL = ["layer", "kind", "neuron", "channel"]
"""What names a channel."""
STORED = ["model", "top_ids"]
"""What a search tells of each channel out of its shard's table, beside what the index has."""
CALIBRATED = pa.schema([("p_value", pa.float64()), ("q_value", pa.float64())])
"""What follows from all neurons and matched vectors of a layer and kind."""
HIT = ["model", *CHANNEL, "z", "support", "strength", "token", "p_value", "q_value", "top_tokens"]
"""The columns of a search's result."""
INDEX, CALIBRATION = "index.parquet", "calibration.parquet"
"""Files of a layer and kind, beside its shards."""
N_SHOWN = 10
"""Top tokens that a search shows of each channel."""


def group_list_path(folder: Path, layer: int, kind: str) -> Path:
    """Where the list of what follows from a layer and kind is."""
    return folder / group_path(layer, kind) / "index.sha256"


# --- Making it ----------------------------------------------------------------------------------


def finish_group(folder: Path, manifest: Manifest, layer: int, kind: str) -> None:
    """Write p- and q-values of a layer and kind, and its index.

    q-values are over all neurons of the layer and kind, one position at a time. Nothing is done
    before the last planned shard is there, or where this was made of the same shards before and is
    whole. The caller holds the group's lock, and has read the manifest since.

    Warns:
        ConvergenceWarning: some channels of the neurons did not converge.
        CalibrationWarning: the null is too small to certify any channel.
    """
    listing = group_list_path(folder, layer, kind)
    paths = [list_path(folder, shard) for shard in manifest.shards_of(layer, kind)]
    if not all(path.exists() for path in paths):
        return
    with suppress(ValueError):  # what is damaged is made again
        if checked(listing, manifest.digest()) and is_finished(folder, manifest, layer, kind):
            return
    parts = {path.name: checksum(path) for path in paths}
    shards, nulls = (manifest.group(layer, kind, null=null) for null in (False, True))
    tables = [shard_table(folder, manifest, shard) for shard in shards]
    files = {}
    if nulls:
        columns = ["channel", manifest.statistic]
        null = torch.cat(
            [_statistic(shard_table(folder, manifest, s, columns), manifest) for s in nulls]
        )
        p = torch.cat([p_values(_statistic(table, manifest), null) for table in tables])
        Calibration(len(p), len(null), manifest.statistic).warn(stacklevel=2)
        calibration = pa.concat_tables(tables).select(["neuron", "channel"])
        for field, values in zip(CALIBRATED, (p, q_values(p)), strict=True):
            calibration = calibration.append_column(field, pa.array(values.flatten().numpy()))
        files[CALIBRATION] = table_bytes(calibration)
    files[INDEX] = table_bytes(
        sorted_index(tables), row_group_size=ROW_GROUP, write_statistics=["token_id"]
    )
    write_piece(listing, manifest.digest(), files, parts)
    n_short = sum(pc.sum(pc.invert(table["converged"])).as_py() or 0 for table in tables)
    if n_short:
        warnings.warn(
            f"layer {layer}, {kind}: {n_short} of {sum(map(len, tables))} channels did not "
            "converge: raise max_iter, or leave them out by the column converged",
            ConvergenceWarning,
            stacklevel=3,
        )


def is_finished(folder: Path, manifest: Manifest, layer: int, kind: str) -> bool:
    """Whether p- and q-values and index are there, and of all that is planned.

    Raises:
        ValueError: a list is damaged, or they were made of other shards than those that are there.
    """
    listing = group_list_path(folder, layer, kind)
    if not listing.exists():
        return False
    sums = read_list(listing, manifest.digest())
    made_of = {name: value for name, value in sums.items() if name not in (INDEX, CALIBRATION)}
    planned = {list_path(folder, shard).name for shard in manifest.shards_of(layer, kind)}
    for name, value in made_of.items():
        path = listing.parent / name
        if checksum(path) != value if path.exists() else name not in planned:
            raise damaged(listing, f"it is of another {name} than there is")
    return planned == made_of.keys() and all((listing.parent / name).exists() for name in planned)


def read_calibration(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> pa.Table:
    """:data:`CALIBRATED` of the shards' channels, as in their tables one below the other.

    Returns:
        Nulls for matched vectors, and where a layer and kind is not complete.

    Raises:
        ValueError: a file is damaged.
    """
    of_group: dict[tuple[int, str], dict[Shard, pa.Table]] = {}
    parts = [CALIBRATED.empty_table()]
    for shard in shards:
        if shard.group not in of_group:
            of_group[shard.group] = _calibration(folder, manifest, *shard.group)
        part = of_group[shard.group].get(shard)
        if part is None:
            nothing = pa.nulls(manifest.n_channels_in(shard), pa.float64())
            part = pa.table([nothing, nothing], schema=CALIBRATED)
        parts.append(part)
    return pa.concat_tables(parts)


def _calibration(folder: Path, manifest: Manifest, layer: int, kind: str) -> dict[Shard, pa.Table]:
    """:data:`CALIBRATED` of each shard of a layer and kind; none where it is not complete."""
    if not manifest.null or not is_finished(folder, manifest, layer, kind):
        return {}
    listing = group_list_path(folder, layer, kind)
    (path,) = checked(listing, manifest.digest(), CALIBRATION)
    table, parts, start = read_table(path, CALIBRATED.names), {}, 0
    for shard in manifest.group(layer, kind):
        parts[shard] = table.slice(start, manifest.n_channels_in(shard))
        start += manifest.n_channels_in(shard)
    if len(table) != start:
        raise damaged(path, f"{len(table)} rows, wanted {start}")
    return parts


def _statistic(table: pa.Table, manifest: Manifest) -> Tensor:
    values = torch.tensor(table[manifest.statistic].to_numpy(), dtype=torch.float64)
    return values.view(-1, pc.max(table["channel"]).as_py() + 1)


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
    channels = pa.concat_tables([table.select(INDEXED) for table in tables])
    rows = index_rows(channels.sort_by([("neuron", "ascending"), ("channel", "ascending")]))
    return rows.take(pc.sort_indices(rows["token_id"]))


# --- Asking it ----------------------------------------------------------------------------------


def search(
    folder: Path, manifest: Manifest, tokens: Sequence[str], word: str, limit: int | None
) -> pa.Table:
    """Channels with a token that reads as ``word`` in their tail: see :meth:`.Atlas.search`.

    Returns:
        :data:`HIT`, the strongest first; ``token`` and the lists ``top_tokens`` are numbers.

    Raises:
        ValueError: the word is empty, or no token of the vocabulary reads so.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: wanted at least 1")
    frame = look_up(folder, manifest, token_ids(manifest, tokens, word)).to_pandas()
    frame = frame.astype({"neuron": "int64", "channel": "int64", "z": "float32"})
    frame["strength"] = frame["z"].abs() * frame["support"]
    frame = frame.sort_values(["strength", *CHANNEL], ascending=[False, True, True, True, True])
    frame = frame.drop_duplicates(CHANNEL).head(len(frame) if limit is None else limit)
    hits = pa.Table.from_pandas(frame.rename(columns={"token_id": "token"}), preserve_index=False)
    stored = _stored(folder, manifest, hits)
    columns = {name: hits[name] for name in hits.column_names}
    columns |= {name: stored[name] for name in stored.column_names}
    columns["top_tokens"] = pc.list_slice(columns.pop("top_ids"), 0, N_SHOWN)
    return pa.table({name: columns[name] for name in HIT})


def token_ids(manifest: Manifest, tokens: Sequence[str], word: str) -> list[int]:
    """The tokens that read as ``word``, case and surrounding space ignored.

    Raises:
        ValueError: the word is empty, or no token of the vocabulary reads so.
    """
    wanted = _normalised([word])[0].as_py()
    if not wanted:
        raise ValueError(f"{word!r} is nothing to search for: give a token or a word")
    words = _normalised(tokens)
    ids: list[int] = pc.indices_nonzero(pc.equal(words, wanted)).to_pylist()
    if not ids:
        words = filter(None, words.to_pylist())
        alike = {w for w in words if w.startswith(wanted) or wanted.startswith(w)}
        near = sorted(alike, key=lambda w: (abs(len(w) - len(wanted)), w))[:5]
        also = f"; there are {', '.join(near)}" if near else ""
        raise ValueError(f"no token of {manifest.model} reads {word!r}{also}")
    return ids


def _normalised(words: Sequence[str]) -> pa.Array:
    """Words as they are compared: without space around them, in lower case."""
    return pc.utf8_lower(pc.utf8_trim_whitespace(pa.array(words, pa.string())))


def look_up(folder: Path, manifest: Manifest, ids: list[int]) -> pa.Table:
    """Rows with one of the tokens, of all indices and of the shards that no index covers yet.

    Returns:
        The columns of :func:`index_rows`, with layer and kind in front.
    """
    condition = reduce(or_, (pc.field("token_id") == i for i in ids))
    tables = []
    for group in manifest.groups():
        if is_finished(folder, manifest, *group):
            listing = group_list_path(folder, *group)
            (path,) = checked(listing, manifest.digest(), INDEX)
            parts = [read_table(path, filters=condition)]
        else:
            shards = [s for s in manifest.group(*group) if is_there(folder, s)]
            rows = (index_rows(shard_table(folder, manifest, s, INDEXED)) for s in shards)
            parts = [table.filter(condition) for table in rows]
        for part in parts:
            layer, kind = (pa.repeat(pa.scalar(value), len(part)) for value in group)
            tables.append(part.add_column(0, "layer", layer).add_column(1, "kind", kind))
    if not tables:
        raise ValueError(f"{folder} has no whole shard yet; run `rotate decompose` again")
    return pa.concat_tables(tables)


def _stored(folder: Path, manifest: Manifest, hits: pa.Table) -> pa.Table:
    """:data:`STORED` and :data:`CALIBRATED` of each hit's channel, in the order of the hits."""
    planned = (shard for shard in manifest.shards if not shard.null)
    shards = {(*shard.group, i): shard for shard in planned for i in shard.indices}
    rows: dict[Shard, list[int]] = {}
    for i, key in enumerate(zip(*(hits[name].to_pylist() for name in CHANNEL[:3]), strict=True)):
        rows.setdefault(shards[key], []).append(i)
    parts = [SCHEMA.empty_table().select(STORED)]
    order, row, start = np.zeros(len(hits), int), np.zeros(len(hits), int), 0
    for shard, here in rows.items():
        neurons, channels = (hits[name].to_numpy()[here] for name in ("neuron", "channel"))
        at = np.searchsorted(shard.indices, neurons) * manifest.n_channels_of(*shard.group)
        at += channels
        order[here] = np.arange(len(here)) + sum(map(len, parts))
        row[here] = at + start
        parts.append(shard_table(folder, manifest, shard, STORED).take(pa.array(at)))
        start += manifest.n_channels_in(shard)
    stored = pa.concat_tables(parts).take(pa.array(order))
    calibration = read_calibration(folder, manifest, list(rows)).take(pa.array(row))
    for name in CALIBRATED.names:
        stored = stored.append_column(name, calibration[name])
    return stored
