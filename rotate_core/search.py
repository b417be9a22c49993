"""Which channels carry a word: one lookup in each index, since an index is sorted by word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from rotate_core.calibration import index_path, index_rows, is_finished, normalise
from rotate_core.files import damaged
from rotate_core.shards import read_table, table_path

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas


def search(atlas: Atlas, word: str, limit: int | None = 20) -> pd.DataFrame:
    """Channels that carry a token which reads as ``word``: see :meth:`Atlas.search`.

    Raises:
        ValueError: the word is empty, or no token of the vocabulary reads so.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: wanted at least 1")
    wanted = normalise(word)
    if not wanted:
        raise ValueError(f"{word!r} is nothing to search for: give a token or a word")
    found = _look_up(atlas, wanted)
    if not len(found):
        _explain(atlas, word, wanted)
    frame = found.drop_columns(["word"]).to_pandas()
    frame["strength"] = frame["z"].abs() * frame["support"]
    place = ["layer", "kind", "neuron", "channel"]
    frame = frame.sort_values(["strength", *place], ascending=[False, True, True, True, True])
    frame = frame.drop_duplicates(place).head(len(frame) if limit is None else limit)
    return _with_tokens(atlas, frame.reset_index(drop=True))


def _look_up(atlas: Atlas, wanted: str) -> pa.Table:
    """Rows with the wanted word, of all indices and of the shards that no index covers yet."""
    condition = pc.field("word") == wanted
    folder, manifest = atlas.folder, atlas.manifest
    finished = [group for group in manifest.groups() if is_finished(folder, manifest, *group)]
    tables = []
    if finished:
        paths = [index_path(folder, *group) for group in finished]
        try:
            tables.append(ds.dataset([str(path) for path in paths]).to_table(filter=condition))
        except (pa.ArrowException, OSError) as error:
            raise damaged(folder, error) from error
    for shard in atlas.shards():
        if shard.group not in finished:
            threshold = manifest.settings_of(*shard.group).threshold
            rows = index_rows(read_table(table_path(folder, shard)), threshold)
            tables.append(rows.filter(condition).cast(tables[0].schema if tables else rows.schema))
    if not tables:
        raise ValueError(f"{folder} has no whole shard yet; run `rotate decompose` again")
    return pa.concat_tables(tables)


def _explain(atlas: Atlas, word: str, wanted: str) -> None:
    """An empty answer has two causes: a word that is no token is an error, a rare one is not."""
    words = {normalise(token) for token in atlas.tokens}
    if wanted not in words:
        alike = (w for w in words if w and (w.startswith(wanted) or wanted.startswith(w)))
        near = sorted(alike, key=lambda w: (abs(len(w) - len(wanted)), w))[:5]
        also = f"; there are {', '.join(near)}" if near else ""
        raise ValueError(f"no token of {atlas.manifest.model} reads {word!r}{also}")


def _with_tokens(atlas: Atlas, frame: pd.DataFrame) -> pd.DataFrame:
    """Add each channel's ten top tokens, out of the few shards that the hits are in."""
    shards = {
        (*shard.group, i): table_path(atlas.folder, shard)
        for shard in atlas.shards()
        for i in shard.indices
    }
    tokens: dict[Path, dict[tuple[int, int], list[str]]] = {}
    lists = []
    for row in frame.itertuples():
        path = shards[row.layer, row.kind, row.neuron]
        if path not in tokens:
            table = read_table(path, columns=["neuron", "channel", "top_tokens"]).to_pydict()
            keys = zip(table["neuron"], table["channel"], strict=True)
            tokens[path] = dict(zip(keys, table["top_tokens"], strict=True))
        lists.append(tokens[path][row.neuron, row.channel][:10])
    return frame.assign(top_tokens=lists)
