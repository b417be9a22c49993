"""What an atlas lacks: a look at what is there, and a check of every byte."""

from __future__ import annotations

from pathlib import Path

from rotate_core.atlas.index import group_list_path, is_finished
from rotate_core.atlas.manifest import Manifest
from rotate_core.atlas.pieces import checked, forget
from rotate_core.atlas.shards import is_there, list_path, read_tokens


def lacking(folder: Path, manifest: Manifest) -> list[str]:
    """What is planned and not there, a line for each layer and kind; nothing is read but lists.

    Raises:
        ValueError: a list is damaged.
    """
    lines = []
    for layer, kind in manifest.groups():
        shards = manifest.shards_of(layer, kind)
        n_there = sum(is_there(folder, shard) for shard in shards)
        if n_there < len(shards):
            lines.append(f"layer {layer}, {kind}: {n_there} of {len(shards)} shards are there")
        elif not is_finished(folder, manifest, layer, kind):
            what = "index, p- and q-values" if manifest.null else "index"
            lines.append(f"layer {layer}, {kind}: no {what} of all that is there")
    return lines


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """What is damaged or missing, a line each: every file is compared with its checksum."""
    forget()
    lists = {list_path(folder, shard): manifest.digest(shard) for shard in manifest.shards}
    for group in manifest.groups():
        lists[group_list_path(folder, *group)] = manifest.digest()
    try:
        damages, _ = [], read_tokens(folder, manifest)
    except ValueError as error:
        damages = [str(error)]
    for listing, made_with in lists.items():
        try:
            if listing.exists():
                checked(listing, made_with)
        except ValueError as error:
            damages.append(str(error))
    return damages or lacking(folder, manifest)
