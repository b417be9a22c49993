"""Which channels carry a word: one lookup in each index, since an index is sorted by token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rotate_core.atlas.index import TO_INDEX, index_path, index_rows, is_finished
from rotate_core.atlas.manifest import Shard
from rotate_core.atlas.shards import is_there, read_table, readable, table_path
from rotate_core.storage import damaged

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas

PLACE = ["layer", "kind", "neuron", "channel"]
OF_CHANNEL = ("model", "p_value", "q_value", "top_ids")
"""What a search tells of each channel out of its shard's table, beside what the index has."""
N_SHOWN = 10
"""Top tokens that a search shows of each channel."""


def search(atlas: Atlas, word: str, limit: int | None = 20) -> pd.DataFrame:
    """Channels that carry a token which reads as ``word``: see :meth:`Atlas.search`.

    Raises:
        ValueError: the word is empty, or no token of the vocabulary reads so.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: wanted at least 1")
    frame = look_up(atlas, token_ids(atlas, word)).to_pandas()
    frame = frame.astype({"neuron": "int64", "channel": "int64", "z": "float32"})
    frame["strength"] = frame["z"].abs() * frame["support"]
    frame = frame.sort_values(["strength", *PLACE], ascending=[False, True, True, True, True])
    frame = frame.drop_duplicates(PLACE).head(len(frame) if limit is None else limit)
    frame["token"] = [atlas.tokens[i] for i in frame.pop("token_id")]
    return _with_channels(atlas, frame.reset_index(drop=True))


def token_ids(atlas: Atlas, word: str) -> list[int]:
    """The tokens that read as ``word``, case and surrounding space ignored.

    Raises:
        ValueError: the word is empty, or no token of the vocabulary reads so.
    """
    wanted = _normalised([word])[0].as_py()
    if not wanted:
        raise ValueError(f"{word!r} is nothing to search for: give a token or a word")
    words = _normalised(atlas.tokens)
    ids: list[int] = pc.indices_nonzero(pc.equal(words, wanted)).to_pylist()
    if not ids:
        words = filter(None, words.to_pylist())
        alike = {w for w in words if w.startswith(wanted) or wanted.startswith(w)}
        near = sorted(alike, key=lambda w: (abs(len(w) - len(wanted)), w))[:5]
        also = f"; there are {', '.join(near)}" if near else ""
        raise ValueError(f"no token of {atlas.manifest.model} reads {word!r}{also}")
    return ids


def look_up(atlas: Atlas, ids: list[int]) -> pa.Table:
    """Rows with one of the tokens, of all indices and of the shards that no index covers yet.

    Returns:
        The columns of :func:`rotate_core.atlas.index.index_rows`, with layer and kind in front.
    """
    condition = reduce(or_, (pc.field("token_id") == i for i in ids))
    folder, manifest = atlas.folder, atlas.manifest
    tables = []
    for group in manifest.groups():
        if is_finished(folder, manifest, *group):
            parts = [_read_index(index_path(folder, *group), condition)]
        else:
            shards = [shard for shard in manifest.group(*group) if is_there(folder, shard)]
            stored = (read_table(table_path(folder, shard), TO_INDEX) for shard in shards)
            parts = [index_rows(table).filter(condition) for table in stored]
        for part in parts:
            layer, kind = (pa.repeat(pa.scalar(value), len(part)) for value in group)
            tables.append(part.add_column(0, "layer", layer).add_column(1, "kind", kind))
    if not tables:
        raise ValueError(f"{folder} has no whole shard yet; run `rotate decompose` again")
    return pa.concat_tables(tables)


def _read_index(path: Path, condition: pc.Expression) -> pa.Table:
    try:
        return pq.read_table(path, filters=condition, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def _normalised(words: Sequence[str]) -> pa.Array:
    """How tokens are compared: without space around them, in lower case."""
    return pc.utf8_lower(pc.utf8_trim_whitespace(pa.array(words, pa.string())))


def _with_channels(atlas: Atlas, frame: pd.DataFrame) -> pd.DataFrame:
    """Add what the shards' tables tell of the channels, out of the few shards they are in."""
    planned = (shard for shard in atlas.manifest.shards if not shard.null)
    shards = {(*shard.group, i): shard for shard in planned for i in shard.indices}
    hits: dict[Shard, list[int]] = {}
    for row in frame.itertuples():
        hits.setdefault(shards[row.layer, row.kind, row.neuron], []).append(row.Index)
    parts = []
    for shard, at in (hits or {atlas.shards()[0]: []}).items():
        neurons, channels = frame.loc[at, "neuron"], frame.loc[at, "channel"]
        n_channels = atlas.manifest.n_channels_of(*shard.group)
        rows = np.searchsorted(shard.indices, neurons) * n_channels + channels
        table = read_table(table_path(atlas.folder, shard), list(OF_CHANNEL)).take(pa.array(rows))
        parts.append(table.append_column("at", pa.array(at, pa.int64())))
    told = pa.concat_tables(parts).sort_by("at").drop_columns(["at"])
    top_ids = pc.list_slice(told["top_ids"], 0, N_SHOWN)
    told = told.drop_columns(["top_ids"]).append_column("top_tokens", top_ids)
    told = readable(told, pa.array(atlas.tokens))
    for name in told.column_names:
        frame[name] = told[name].to_pylist()
    return frame[["model", *PLACE, *(name for name in frame if name not in ("model", *PLACE))]]
