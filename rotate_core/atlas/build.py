"""Build an atlas: plan shards, compute the missing ones, calibrate what is complete.

The plan is in the manifest and only ever grows, so the same command again goes on where the last
one ended, and a shard is a function of the model, the settings and its own neurons: not of who
computed it, when, or after what interruption. Several processes share the work by a lock a shard.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from rotate_core.atlas.index import finish_group
from rotate_core.atlas.manifest import Manifest, Shard, read_manifest, write_manifest
from rotate_core.atlas.shards import is_there, write_shard, write_tokens
from rotate_core.atlas.workers import ENGINES
from rotate_core.channels import Channels
from rotate_core.decomposition import (
    ARRAYS_PER_NEURON,
    ConvergenceWarning,
    check_device,
    decompose,
)
from rotate_core.models import Model
from rotate_core.models.fetch import PACKAGED
from rotate_core.models.model import SIDES
from rotate_core.models.neurons import Neurons
from rotate_core.models.vocabulary import Vocabulary
from rotate_core.null.evidence import STATISTICS, TailEvidence, statistics, tail_evidence
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.settings import Settings
from rotate_core.storage import versions

SHARD_SIZE = {"cpu": 128, "cuda": 1024}
"""Neurons a shard at most: what an interruption loses, and a batch of the solver."""


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
    device: str | None = None,
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
        device: None for the CPU.
        memory: bytes that a shard's work may take: makes the new shards smaller than usual.
        engine: "local", or "ray".
        ray_address: of a Ray cluster; None: this machine's cores.
        progress: show a bar.

    Raises:
        ValueError: the folder holds an atlas of another model or with other settings (what differs
            is named); an unknown layer, kind or neuron, a bad number, setting or device.
        OSError: the disk is full; whole shards stay.
    """
    for name, value, known in (
        ("engine", engine, tuple(ENGINES)),
        ("statistic", statistic, STATISTICS),
        ("side", side, SIDES),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: wanted one of {', '.join(known)}")
    for name, number, least in (("n_channels", n_channels, 1), ("null", null, 0)):
        if number < least:
            raise ValueError(f"{name}={number}: wanted at least {least}")
    check_device(device or "cpu")
    wanted = Manifest(
        model=model.name,
        checksum=model.checksum,
        settings=settings or Settings(),
        n_channels=n_channels,
        seed=seed,
        null=null,
        statistic=statistic,
        side=side,
        fold_norm=fold_norm,
        versions=versions("rotate_core", "torch", "transformers"),
        exceptions={key: dict(changes) for key, changes in (exceptions or {}).items()},
    )
    wanted.check_exceptions(model.n_layers)
    chosen = _choose(model, layers, kinds, neurons, seed)
    size = _shard_size(model, memory, device)
    work = Work(Path(folder), _source(model), device, torch.get_num_threads())
    # Held for the whole build: a model keeps a vocabulary only as long as somebody does.
    vocabularies = [model.vocabulary(n, side=side, fold_norm=fold_norm) for n, _ in chosen]
    with work.lock("manifest", wait=True):
        manifest = _plan(work.folder, wanted, chosen, size)
        write_tokens(work.folder, vocabularies[0].tokens)
        write_manifest(work.folder, manifest)

    asked = [
        shard
        for shard in manifest.shards
        if shard.group in chosen
        and (shard.null or not set(shard.indices).isdisjoint(chosen[shard.group]))
    ]
    missing = [shard for shard in asked if not is_there(work.folder, shard)]
    total, left = (sum(map(manifest.n_to_find, part)) for part in (asked, missing))
    run = ENGINES[engine]
    with tqdm(total=total, initial=total - left, unit="channel", disable=not progress) as bar:
        for shard in run(work, missing, model, manifest, ray_address):
            bar.update(manifest.n_to_find(shard))
    _on_device.cache_clear()
    del vocabularies
    for layer, kind in chosen:
        with work.lock(f"finish-{layer}-{kind}", wait=True):
            finish_group(work.folder, manifest, layer, kind)


@dataclass(frozen=True)
class Work:
    """What a worker needs to compute shards; small, so that it can be sent to another machine."""

    folder: Path
    source: str
    """The model, for ``load_model``."""
    device: str | None
    threads: int
    """Of PyTorch on a CPU: how many share a sum changes its rounding."""

    def lock(self, name: str, *, wait: bool = False) -> FileLock:
        """A lock that ends with its process, however that ends."""
        locks = self.folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name.replace('/', '-')}.lock", timeout=-1 if wait else 0)

    def compute(self, shard: Shard, model: Model, manifest: Manifest) -> bool:
        """Compute and write a shard, unless it is there. False: another process is at it."""
        lock = self.lock(shard.stem)
        try:
            with lock:
                if not is_there(self.folder, shard):
                    channels, evidence = _decompose(shard, model, manifest, self.device)
                    ranked = statistics(channels, (manifest.statistic,), evidence=evidence)
                    write_shard(self.folder, shard, channels, evidence.tails, ranked)
        except Timeout:
            return False
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever takes it still finds the shard there
        return True


def _decompose(
    shard: Shard, model: Model, manifest: Manifest, device: str | None
) -> tuple[Channels, TailEvidence]:
    """The channels of a shard with their support, and what else was seen of their tails."""
    fold = manifest.fold_norm
    if shard.null:
        layer_vectors = model.neurons(*shard.group, fold_norm=fold).vectors
        own = own_seed(manifest.seed, shard.layer, shard.kind)
        drawn = matched_vectors(layer_vectors, shard.indices[-1] + 1, seed=own)
        neurons = Neurons(
            drawn[list(shard.indices)], model.name, shard.layer, shard.kind, shard.indices
        )
    else:
        neurons = model.neurons(*shard.group, shard.indices, fold_norm=fold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told once: see finish_group
        channels = decompose(
            neurons,
            _on_device(model.vocabulary(shard.layer, side=manifest.side, fold_norm=fold), device),
            n_channels=manifest.n_channels_of(*shard.group),
            settings=manifest.settings_of(*shard.group),
            seed=manifest.seed,
            device=device,
            memory=2**60,  # one batch, whatever is free: how it is cut changes the rounding
            progress=False,
        )
    evidence = tail_evidence(channels)
    return dataclasses.replace(channels, support=evidence.support), evidence


@lru_cache(maxsize=1)
def _on_device(vocabulary: Vocabulary, device: str | None) -> Vocabulary:
    """The vocabulary where the work is done, moved there once."""
    return vocabulary.to(device)


# --- The plan -----------------------------------------------------------------------------------


def _plan(
    folder: Path, wanted: Manifest, chosen: dict[tuple[int, str], tuple[int, ...]], size: int
) -> Manifest:
    """The manifest with everything chosen planned: what was planned before stays as it was."""
    manifest = wanted
    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        if different := manifest.differences(wanted):
            raise ValueError(
                f"{folder} holds an atlas made otherwise ({'; '.join(different)}): give another "
                "folder, or what it was made with"
            )
    shards = list(manifest.shards)
    for (layer, kind), neurons in chosen.items():
        known = {i for shard in manifest.group(layer, kind) for i in shard.indices}
        new = [i for i in neurons if i not in known]
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
) -> dict[tuple[int, str], tuple[int, ...]]:
    """The neurons of each layer and kind, ascending."""
    layers = sorted(set(range(model.n_layers) if layers is None else layers))
    kinds = sorted(set(model.kinds if kinds is None else kinds))
    for what, given, known in (
        ("layer", layers, range(model.n_layers)),
        ("kind", kinds, model.kinds),
    ):
        if not given:
            raise ValueError(f"no {what} asked for: {model.name} has {_listed(known)}")
        for value in given:
            if value not in known:
                raise ValueError(f"{what} {value}: {model.name} has {_listed(known)}")
    chosen = {}
    for layer in layers:
        if neurons is None:
            numbers: Iterable[int] = range(model.d_mlp)
        elif isinstance(neurons, int):
            if not 1 <= neurons <= model.d_mlp:
                raise ValueError(f"{neurons} neurons of each layer: wanted 1 to {model.d_mlp}")
            generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
            numbers = torch.randperm(model.d_mlp, generator=generator)[:neurons].tolist()
        else:
            numbers = set(neurons)
            if not numbers:
                raise ValueError(f"no neuron asked for: a layer has 0 to {model.d_mlp - 1}")
            if beyond := [i for i in numbers if not 0 <= i < model.d_mlp]:
                raise ValueError(
                    f"neuron {beyond[0]}: a layer of {model.name} has 0 to {model.d_mlp - 1}"
                )
        chosen.update({(layer, kind): tuple(sorted(numbers)) for kind in kinds})
    return chosen


def _listed(known: Iterable[object]) -> str:
    if isinstance(known, range):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(map(str, known))


def _shard_size(model: Model, memory: float | None, device: str | None) -> int:
    size = SHARD_SIZE[torch.device(device or "cpu").type]
    if memory is None:
        return size
    each = ARRAYS_PER_NEURON * (model.d_vocab + model.d_model) * 4
    if memory < each:
        raise ValueError(
            f"memory={memory:.0f} bytes: one neuron takes {each}, over {model.d_vocab} tokens"
        )
    return min(size, int(memory // each))


def _source(model: Model) -> str:
    return model.name if model.name in PACKAGED or model.commit else str(model.path.resolve())
