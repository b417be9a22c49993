"""Compute shards, in this process or in Ray's workers: the same come out, bit for bit.

A shard is a function of the model, the manifest and its own neurons: not of who computed it, when,
or after what interruption. Processes share the work by one lock per shard.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rotate_core.atlas.manifest import Manifest, Shard
from rotate_core.atlas.pieces import is_whole
from rotate_core.atlas.shards import list_path, write_shard
from rotate_core.channels import Channels
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.models import Model, load_model
from rotate_core.models.fetch import PACKAGED
from rotate_core.models.neurons import Neurons
from rotate_core.models.vocabulary import Vocabulary
from rotate_core.null.evidence import tail_evidence
from rotate_core.null.matched import matched_vectors, own_seed

POLL_SECONDS = 0.5
"""Between looks at shards that other processes are at."""
RUN = "run-"
"""What names of locks begin with that are held as long as their processes are at work."""
RETRIES = 3
"""How often Ray starts a task again whose worker has died."""


def lock(folder: Path, name: str, *, wait: bool = False) -> FileLock:
    """A lock on a part of an atlas; it ends with its process, however that ends."""
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{name.replace('/', '-')}.lock", timeout=-1 if wait else 0)


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold a lock by which others see that this process is at work, begun under the manifest's."""
    own = lock(folder, f"{RUN}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with own:
            yield
    finally:
        Path(own.lock_file).unlink(missing_ok=True)


def others_at_work(folder: Path) -> bool:
    """Whether another process is. The caller has the manifest's lock, so that none begins now."""
    for path in sorted((folder / ".locks").glob(f"{RUN}*.lock")):
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)  # its process has ended
        except Timeout:
            return True
    return False


@dataclass(frozen=True)
class Work:
    """All that a worker has to know; small, so that it can be sent to another machine."""

    folder: Path
    manifest: Manifest
    source: str
    """The model, for ``load_model``: see :func:`source_of`."""
    device: torch.device
    threads: int
    """Of PyTorch on a CPU: how many share a sum changes its rounding."""

    def compute(self, shard: Shard, model: Model) -> bool:
        """Compute and write a shard, unless it is whole. False: another process is at it."""
        own = lock(self.folder, shard.stem)
        try:
            with own:
                if not is_whole(list_path(self.folder, shard), self.manifest.digest(shard)):
                    channels = _decompose(shard, model, self.manifest, self.device)
                    evidence = tail_evidence(channels)
                    write_shard(self.folder, self.manifest, shard, channels, evidence)
        except Timeout:
            return False
        Path(own.lock_file).unlink(missing_ok=True)  # whoever takes it still finds the shard there
        return True


def source_of(model: Model) -> str:
    """The name that ``load_model`` finds the model by, from any folder."""
    return model.name if model.name in PACKAGED or model.commit else str(model.path.resolve())


def _decompose(shard: Shard, model: Model, manifest: Manifest, device: torch.device) -> Channels:
    """The channels of a shard's neurons, or matched vectors."""
    fold = manifest.fold_norm
    if shard.null:
        layer_vectors = model.neurons(*shard.group, fold_norm=fold).vectors
        seed = own_seed(manifest.seed, shard.layer, shard.kind)
        drawn = matched_vectors(layer_vectors, shard.indices[-1] + 1, seed=seed)
        neurons = Neurons(
            drawn[list(shard.indices)], model.name, shard.layer, shard.kind, shard.indices
        )
    else:
        neurons = model.neurons(*shard.group, shard.indices, fold_norm=fold)
    vocabulary = model.vocabulary(shard.layer, side=manifest.side, fold_norm=fold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told once: see finish_group
        return decompose(
            neurons,
            _on_device(vocabulary, device),
            n_channels=manifest.n_channels_of(*shard.group),
            settings=manifest.settings_of(*shard.group),
            seed=manifest.seed,
            device=device,
            memory=2**60,  # one batch, whatever is free: how it is cut changes the rounding
            progress=False,
        )


@lru_cache(maxsize=1)
def _on_device(vocabulary: Vocabulary, device: torch.device) -> Vocabulary:
    """The vocabulary where the work is done, moved there once."""
    return vocabulary.to(device)


# --- Engines ------------------------------------------------------------------------------------


def run_local(
    work: Work, shards: Sequence[Shard], model: Model, address: str | None
) -> Iterator[Shard]:
    """One shard after the other, here; those that another process is at are waited for."""
    waiting = list(shards)
    while waiting:
        busy = []
        for shard in waiting:
            if work.compute(shard, model):
                yield shard
            else:
                busy.append(shard)
        if len(busy) == len(waiting):
            time.sleep(POLL_SECONDS)
        waiting = busy
    _on_device.cache_clear()


def run_ray(
    work: Work, shards: Sequence[Shard], model: Model, address: str | None
) -> Iterator[Shard]:
    """Each shard as a Ray task, on the cluster at ``address`` or on this machine's cores.

    A task on a GPU has it to itself, whichever one Ray gives it. One on CPUs takes as many as
    PyTorch has threads here, since the number of threads changes how sums are rounded:
    ``OMP_NUM_THREADS=1`` gives the most tasks at a time. The folder must be on a disk that all
    machines share.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at ``address``.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'engine "ray" needs Ray: pip install "rotate-core[ray]"'
        ) from error
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        ray.init(log_to_driver=False, **options)
    work = dataclasses.replace(work, device=torch.device(work.device.type))  # a task sees its own
    on_gpu = work.device.type == "cuda"
    task = ray.remote(
        num_cpus=1 if on_gpu else work.threads,
        num_gpus=int(on_gpu),
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_compute)
    pending = {task.remote(work, shard): shard for shard in shards}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                shard = pending.pop(reference)
                ray.get(reference)
                yield shard
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    finally:
        for reference in pending:
            ray.cancel(reference)
        if started:
            ray.shutdown()


def _compute(work: Work, shard: Shard) -> None:
    """In a worker: until the shard is there, by this task or by another process."""
    torch.set_num_threads(work.threads)
    model = _load(work.source, work.manifest.checksum)
    while not work.compute(shard, model):
        time.sleep(POLL_SECONDS)


@lru_cache(maxsize=1)
def _load(source: str, checksum: str) -> Model:
    model = load_model(source)
    if model.checksum != checksum:
        raise ValueError(f"{source} has checksum {model.checksum} on this machine, not {checksum}")
    return model


ENGINES: dict[str, Callable[..., Iterator[Shard]]] = {"local": run_local, "ray": run_ray}
"""What computes the missing shards and yields each when it is there."""
