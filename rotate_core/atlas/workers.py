"""Who computes shards: this process, or Ray's workers. The same shards come out, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rotate_core.atlas.manifest import Manifest, Shard
from rotate_core.models import Model, load_model

if TYPE_CHECKING:
    from rotate_core.atlas.build import Work

POLL_SECONDS = 0.5
"""Between looks at shards that other processes are at."""
RETRIES = 3
"""How often Ray starts a task again whose worker has died."""


def run_local(
    work: Work, shards: Sequence[Shard], model: Model, manifest: Manifest, address: str | None
) -> Iterator[Shard]:
    """One shard after the other, here; those that another process is at are waited for."""
    waiting = list(shards)
    while waiting:
        busy = []
        for shard in waiting:
            if work.compute(shard, model, manifest):
                yield shard
            else:
                busy.append(shard)
        if len(busy) == len(waiting):
            time.sleep(POLL_SECONDS)
        waiting = busy


def run_ray(
    work: Work, shards: Sequence[Shard], model: Model, manifest: Manifest, address: str | None
) -> Iterator[Shard]:
    """Each shard as a Ray task, on the cluster at ``address`` or on this machine's cores.

    A task takes as many CPUs as PyTorch has threads here, since the number of threads changes how
    sums are rounded: ``OMP_NUM_THREADS=1`` gives the most tasks at a time. The folder must be on
    a disk that all machines share.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at ``address``.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'engine "ray" needs Ray: pip install "rotate_core[ray]"'
        ) from error
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        ray.init(log_to_driver=False, **options)
    on_gpu = work.device is not None and work.device.startswith("cuda")
    task = ray.remote(
        num_cpus=work.threads,
        num_gpus=int(on_gpu),
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_compute)
    pending = {task.remote(work, shard, manifest): shard for shard in shards}
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


def _compute(work: Work, shard: Shard, manifest: Manifest) -> None:
    """In a worker: until the shard is there, by this task or by another process."""
    import torch

    torch.set_num_threads(work.threads)
    model = _load(work.source, manifest.checksum)
    _HELD[0] = model.vocabulary(shard.layer, side=manifest.side, fold_norm=manifest.fold_norm)
    while not work.compute(shard, model, manifest):
        time.sleep(POLL_SECONDS)


@lru_cache(maxsize=1)
def _load(source: str, checksum: str) -> Model:
    model = load_model(source)
    if model.checksum != checksum:
        raise ValueError(f"{source} has checksum {model.checksum} on this machine, not {checksum}")
    return model


_HELD: list[Any] = [None]
"""The vocabulary of a worker's last shard: a model keeps it only as long as somebody does."""

ENGINES: dict[str, Callable[..., Iterator[Shard]]] = {"local": run_local, "ray": run_ray}
"""What computes the missing shards and yields each when it is there."""
