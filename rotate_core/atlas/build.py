"""Build an atlas: plan shards, compute what is not whole, finish the groups that are complete.

The plan is in the manifest, so the same command again goes on where the last one ended. What has
no shard yet may be planned otherwise, where no other process is at it. Several processes share the
work: see :mod:`rotate_core.atlas.workers`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from rotate_core.atlas.index import finish_group
from rotate_core.atlas.manifest import Manifest, Shard, listed
from rotate_core.atlas.manifest_file import read_manifest, write_manifest
from rotate_core.atlas.pieces import checked, forget
from rotate_core.atlas.shards import is_there, list_path, write_tokens
from rotate_core.atlas.workers import ENGINES, Work, at_work, lock, others_at_work, source_of
from rotate_core.decomposition import ARRAYS_PER_NEURON, usable_device
from rotate_core.models import Model
from rotate_core.models.model import SIDES
from rotate_core.null.evidence import STATISTICS
from rotate_core.rotation.settings import Settings
from rotate_core.storage import versions

log = logging.getLogger(__name__)
T = TypeVar("T", int, str)

SHARD_SIZE = {"cpu": 128, "cuda": 1024}
"""Neurons of a shard at most: what an interruption loses, and a batch of the solver."""
MOST_MATCHED = 100_000
"""Matched vectors of a layer and kind: they are held in memory together."""


def build_atlas(
    folder: str | os.PathLike[str],
    model: Model,
    *,
    layers: Iterable[int] | None = None,
    kinds: Iterable[str] | None = None,
    neurons: int | Iterable[int] | None = None,
    n_channels: int = 10,
    null: int = 0,
    settings: Settings | None = None,
    exceptions: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    statistic: str = "core",
    side: str = "auto",
    fold_norm: bool = False,
    device: str | torch.device | None = None,
    memory: float | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: bool = True,
) -> None:
    """Decompose many neurons into a folder: go on with what is there, add what is new.

    Args:
        folder: of the atlas; made if need be.
        model: whose neurons.
        layers: None for all.
        kinds: None for all.
        neurons: numbers, or how many to draw in each layer (the same for all kinds); None for all.
        n_channels: of each neuron.
        null: matched vectors to decompose for each layer and kind; 0 for no p-values.
        settings: None for ours.
        exceptions: what some layers, or a kind of one, have otherwise, neurons and matched vectors
            alike: ``{"22": {"threshold": 8.0}, "18/out": {"lambda_kurtosis": 0.5}}``. Names are
            fields of :class:`Settings`; ``max_channels`` bounds ``n_channels``.
        seed: of the draw, of the matched vectors and of the decomposition.
        statistic: what channels are ranked by against the null.
        side: which vocabulary matrix, as in :meth:`Model.vocabulary`.
        fold_norm: whether norms' gains are multiplied in, as in :meth:`Model.neurons`.
        device: as for :func:`.usable_device`; None for the CPU.
        memory: bytes that a shard's work may take beside U: makes the new shards smaller than
            usual. None is as much as is needed, on a GPU at most half of its memory, U included.
        engine: "local", or "ray": as many shards at a time as there are cores, or GPUs.
        ray_address: of a Ray cluster; None: this machine's cores.
        progress: show a bar.

    Raises:
        ValueError: the folder holds an atlas of another model or with other settings (what differs
            is named); an unknown layer, kind or neuron, a bad number, setting or device.
        OSError: the disk is full; whole shards stay.
    """
    for name, value, names in (
        ("engine", engine, tuple(ENGINES)),
        ("statistic", statistic, STATISTICS),
        ("side", side, SIDES),
    ):
        if value not in names:
            raise ValueError(f"{name}={value!r}: wanted one of {', '.join(names)}")
    for name, number, least, most in (
        ("n_channels", n_channels, 1, model.d_vocab),
        ("null", null, 0, MOST_MATCHED),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not least <= operator.index(number) <= most:
            raise ValueError(f"{name}={number}: wanted {least} to {most}")
    device = usable_device(device or "cpu")
    wanted = Manifest(
        model=model.name,
        checksum=model.checksum,
        settings=settings or Settings(),
        n_channels=int(n_channels),
        seed=int(seed),
        null=int(null),
        statistic=statistic,
        side=side,
        fold_norm=fold_norm,
        versions=versions("rotate_core", "torch", "transformers"),
        exceptions={key: dict(changes) for key, changes in (exceptions or {}).items()},
    )
    wanted.check_exceptions(model.n_layers)
    chosen = _choose(model, layers, kinds, neurons, seed)
    size = _shard_size(model, memory, device)
    tokens = model.vocabulary(min(chosen)[0], side=side, fold_norm=fold_norm).tokens
    folder = Path(folder)
    forget()
    with ExitStack() as run:
        with lock(folder, "manifest", wait=True):
            alone = not others_at_work(folder)
            run.enter_context(at_work(folder))
            manifest = _plan(folder, wanted, chosen, size, alone)
            write_tokens(folder, manifest, tokens)
            write_manifest(folder, manifest)
        asked = [
            shard
            for shard in manifest.shards
            if shard.group in chosen
            and (
                shard.null
                or not chosen[shard.group].isdisjoint(shard.indices)
                or is_there(folder, shard)  # whole, or else to be healed
            )
        ]
        missing = [shard for shard in asked if not _is_whole(folder, manifest, shard)]
        total, left = (sum(map(manifest.n_channels_in, part)) for part in (asked, missing))
        work = Work(folder, manifest, source_of(model), device, torch.get_num_threads())
        with tqdm(total=total, initial=total - left, unit="channel", disable=not progress) as bar:
            for shard in ENGINES[engine](work, missing, model, ray_address):
                bar.update(manifest.n_channels_in(shard))
        for layer, kind in chosen:
            with lock(folder, f"finish-{layer}-{kind}", wait=True):  # others may have planned more
                finish_group(folder, read_manifest(folder), layer, kind)


def _is_whole(folder: Path, manifest: Manifest, shard: Shard) -> bool:
    """Whether a shard is there as its checksums say. What is damaged is told in a warning."""
    try:
        listing = list_path(folder, shard)
        return is_there(folder, shard) and bool(checked(listing, manifest.digest(shard)))
    except ValueError as error:
        log.warning("%s", error)
        return False


# --- The plan -----------------------------------------------------------------------------------


def _plan(
    folder: Path,
    wanted: Manifest,
    chosen: dict[tuple[int, str], frozenset[int]],
    size: int,
    alone: bool,
) -> Manifest:
    """The manifest with everything chosen planned: shards that are there stay as they are.

    Of shards that are not there those stay that hold nothing but chosen neurons, so that the same
    command again has the same shards, and those that other processes may be at.
    """
    manifest = wanted
    if (folder / "manifest.json").exists():
        planned = read_manifest(folder)
        begun = any(is_there(folder, shard) for shard in planned.shards)
        different = planned.differences(wanted)
        if different and (begun or not alone):
            raise ValueError(
                f"{folder} holds an atlas made otherwise ({'; '.join(different)}): give another "
                "folder, or what it was made with"
            )
        if not different:
            kept = [
                shard
                for shard in planned.shards
                if not alone
                or shard.null
                or shard.group not in chosen
                or chosen[shard.group].issuperset(shard.indices)
                or is_there(folder, shard)
            ]
            if dropped := len(planned.shards) - len(kept):
                log.warning("%s: %d shards that are not there are planned anew", folder, dropped)
            manifest = dataclasses.replace(planned, shards=tuple(kept))
    shards = list(manifest.shards)
    for (layer, kind), neurons in chosen.items():
        held = {i for shard in manifest.group(layer, kind) for i in shard.indices}
        new = sorted(neurons - held)
        parts = [(new, False)]
        if not manifest.group(layer, kind, null=True):
            parts.insert(0, (list(range(manifest.null)), True))
        for indices, null in parts:
            shards += [Shard(layer, kind, part, null) for part in _even_parts(indices, size)]
    return dataclasses.replace(manifest, shards=tuple(shards))


def _even_parts(indices: list[int], most: int) -> list[tuple[int, ...]]:
    """In order, as few parts as hold ``most`` each, of about one size: a small batch is slow."""
    if not indices:
        return []
    parts = torch.tensor(indices).tensor_split(math.ceil(len(indices) / most))
    return [tuple(part.tolist()) for part in parts]


def _choose(
    model: Model,
    layers: Iterable[int] | None,
    kinds: Iterable[str] | None,
    neurons: int | Iterable[int] | None,
    seed: int,
) -> dict[tuple[int, str], frozenset[int]]:
    """The neurons of each layer and kind."""
    layers = _known("layer", layers, range(model.n_layers), model.name)
    kinds = _known("kind", kinds, model.kinds, model.name)
    if not isinstance(neurons, int):
        every = range(model.d_mlp)
        numbers = frozenset(_known("neuron", neurons, every, f"a layer of {model.name}"))
        return dict.fromkeys(((layer, kind) for layer in layers for kind in kinds), numbers)
    if not 1 <= neurons <= model.d_mlp:
        raise ValueError(f"{neurons} neurons of each layer: wanted 1 to {model.d_mlp}")
    chosen = {}
    for layer in layers:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        drawn = torch.randperm(model.d_mlp, generator=generator)[:neurons].tolist()
        chosen.update(dict.fromkeys(((layer, kind) for kind in kinds), frozenset(drawn)))
    return chosen


def _known(what: str, asked: Iterable[T] | None, there: Sequence[T], owner: str) -> list[T]:
    """What is asked for, each once, ascending; None for all. The first that is unknown ends it."""
    known = set()
    for value in there if asked is None else asked:
        if value not in there:
            raise ValueError(f"{what} {value}: {owner} has {listed(there)}")
        known.add(there[there.index(value)])
    if not known:
        raise ValueError(f"no {what} asked for: {owner} has {listed(there)}")
    return sorted(known)


def _shard_size(model: Model, memory: float | None, device: torch.device) -> int:
    size = SHARD_SIZE["cpu" if device.type == "cpu" else "cuda"]
    if memory is None and device.type == "cuda":  # of all it has: the same plan, whatever is free
        memory = torch.cuda.get_device_properties(device).total_memory / 2
        memory -= 4 * model.d_model * model.d_vocab
    if memory is None:
        return size
    each = ARRAYS_PER_NEURON * (model.d_vocab + model.d_model) * 4
    if memory < each:
        raise ValueError(
            f"memory={memory:.0f} bytes: one neuron takes {each}, over {model.d_vocab} tokens"
        )
    return min(size, int(memory // each))
