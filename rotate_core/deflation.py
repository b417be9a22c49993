"""Many channels of many neurons: solve, mask the channel's tokens, repeat (paper, section 3.3)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core import geodesic, householder
from rotate_core.channels import Channels, NeuronsLike, VocabularyLike
from rotate_core.kurtosis import Sample, Solution, centred_logits
from rotate_core.settings import Settings

N_TOP = 50
"""Tail tokens kept with each channel."""


class ConvergenceWarning(RuntimeWarning):
    """Some channels were returned before the solver's stopping rule was met."""


def decompose(
    neurons: NeuronsLike | Float[Tensor, "n_neurons d_model"],
    vocabulary: VocabularyLike,
    *,
    n_channels: int = 5,
    settings: Settings | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    memory: float | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Channels:
    """Take neurons apart into vocabulary channels (paper, section 3).

    For each neuron: find the direction near w whose projection is most peaked, mask the tokens of its
    tail, repeat. Neurons do not influence each other: how they are batched changes the result by
    rounding only.

    Args:
        neurons: weight vectors with their labels, or a plain tensor of them.
        vocabulary: U, token weights and token strings.
        n_channels: channels of each neuron.
        settings: None for ours, :data:`PAPER` for the paper's.
        seed: of the random starts, mixed with each neuron's number, the channel's and the restart's.
        device: where to compute; None is where the projection is. Results are on the CPU.
        memory: bytes that the work may take beside U; None is a quarter of what is free,
            at most 4 GiB on a CPU.
        history: keep the objective after every iteration.
        progress: show a bar.
        overrides: any field of :class:`Settings`, such as ``solver="householder"``.

    Returns:
        The channels. The computation is in float64 if either input is, else in float32.

    Raises:
        ValueError: shapes that do not fit, weights that are not finite or of norm 0, logits without
            variance, fewer than one channel, all tokens masked.

    Warns:
        ConvergenceWarning: some channels hit ``max_iter``.
    """
    settings = dataclasses.replace(settings or Settings(), **overrides)
    w, labels = _vectors_and_labels(neurons)
    _check(w, vocabulary.projection, labels["indices"], n_channels)
    dtype = torch.promote_types(torch.promote_types(w.dtype, vocabulary.projection.dtype), torch.float32)
    device = torch.device(device) if device is not None else vocabulary.projection.device
    projection = vocabulary.projection.to(device, dtype)
    token_weights = vocabulary.token_weights.to(device, dtype)
    precondition = None
    if settings.solver == "geodesic" and settings.precondition:
        precondition = _preconditioner(vocabulary, projection, token_weights, settings.moments)

    chunk = _chunk_size(projection, memory)
    parts = []
    with tqdm(total=len(w) * n_channels, unit="channel", disable=not progress, leave=False) as bar:
        for start in range(0, len(w), chunk):
            rows = slice(start, start + chunk)
            parts.append(
                _decompose_chunk(
                    w[rows].to(device, dtype),
                    labels["indices"][rows],
                    projection,
                    token_weights,
                    precondition,
                    settings,
                    n_channels,
                    seed,
                    bar,
                )
            )
    arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "history"}
    if history:
        arrays["history"] = _join_histories([part["history"] for part in parts])
    channels = Channels(
        weight_vectors=w.to("cpu", dtype),
        vocabulary=vocabulary,
        settings=settings,
        seed=seed,
        **arrays,
        **labels,
    )
    if not channels.converged.all():
        n = int((~channels.converged).sum())
        warnings.warn(
            f"{n} of {channels.converged.numel()} channels did not converge within "
            f"{int(channels.n_iter.max())} iterations: raise max_iter, or look at gradient_norm",
            ConvergenceWarning,
            stacklevel=2,
        )
    return channels


def _vectors_and_labels(neurons: NeuronsLike | Tensor) -> tuple[Tensor, dict[str, Any]]:
    if isinstance(neurons, Tensor):
        return neurons, {"indices": tuple(range(len(neurons)))}
    names = ("indices", "model", "layer", "kind")
    return neurons.vectors, {name: getattr(neurons, name) for name in names}


def _check(w: Tensor, projection: Tensor, indices: tuple[int, ...], n_channels: int) -> None:
    if n_channels < 1:
        raise ValueError(f"n_channels={n_channels}: wanted at least 1")
    if w.ndim != 2 or not len(w):
        raise ValueError(f"neurons of shape {tuple(w.shape)}: wanted (n_neurons, d_model), n_neurons >= 1")
    if w.shape[1] != projection.shape[0]:
        raise ValueError(
            f"neurons have d_model {w.shape[1]}, the vocabulary's projection has {projection.shape[0]} "
            f"(shape {tuple(projection.shape)}): wanted the same"
        )
    for what, bad in (
        ("values that are not finite", ~w.isfinite().all(1)),
        ("norm 0, so it has no direction", w.norm(dim=1) == 0),
    ):
        if bad.any():
            which = [indices[i] for i in bad.nonzero().flatten()[:5].tolist()]
            raise ValueError(f"{int(bad.sum())} weight vectors have {what}: neurons {which}")


_PRECONDITIONERS: WeakKeyDictionary[Any, dict[tuple[Any, ...], Tensor]] = WeakKeyDictionary()


def _preconditioner(
    vocabulary: VocabularyLike, projection: Tensor, token_weights: Tensor, moments: str
) -> Tensor:
    """The vocabulary's preconditioner, computed once for as long as the vocabulary lives."""
    known = _PRECONDITIONERS.setdefault(vocabulary, {})
    key = (moments, projection.device, projection.dtype)
    if key not in known:
        known[key] = geodesic.preconditioner(projection, token_weights, moments=moments)
    return known[key]


def _chunk_size(projection: Tensor, memory: float | None) -> int:
    """Neurons at a time: a dozen arrays of d_vocab values each at the peak, see the solvers."""
    d_model, d_vocab = projection.shape
    bytes_per_neuron = 12 * (d_vocab + d_model) * projection.element_size()
    if memory is None:
        memory = _free_bytes(projection.device) / 4
        if projection.device.type == "cpu":
            memory = min(memory, 4 * 2**30)
    if memory < bytes_per_neuron:
        raise ValueError(
            f"memory={memory:.0f} bytes: one neuron needs {bytes_per_neuron} with {d_vocab} tokens"
        )
    return int(memory // bytes_per_neuron)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 8 * 2**30  # not Linux: assume a small machine


def _generator(*key: int) -> torch.Generator:
    """A generator of its own for each (seed, neuron, channel, restart), whatever the batch."""
    mixed = 0
    for part in key:
        mixed = ((mixed ^ part) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) % 2**63
    return torch.Generator().manual_seed(mixed)


def _normal(indices: Sequence[int], shape: tuple[int, ...], like: Tensor, *key: int) -> Tensor:
    seed, *rest = key
    draws = [torch.randn(shape, generator=_generator(seed, index, *rest)) for index in indices]
    return torch.stack(draws).to(like)


def _solve(
    w: Tensor,
    indices: Sequence[int],
    projection: Tensor,
    token_weights: Tensor,
    precondition: Tensor | None,
    settings: Settings,
    seed: int,
    channel: int,
) -> Solution:
    """The best of ``restarts`` solutions."""
    best: Solution | None = None
    for restart in range(settings.restarts):
        key = (seed, channel, restart)
        limit = {} if settings.max_iter is None else {"max_iter": settings.max_iter}
        if settings.solver == "householder":
            u = _normal(indices, (settings.n_reflections, w.shape[1]), w, *key)
            solution = householder.solve(
                w, projection, token_weights, settings.objective, start=u, **limit
            )
        else:
            start = None
            if settings.start == "reflection" or restart > 0:
                start = householder.reflect(_normal(indices, (w.shape[1],), w, *key), w)
            solution = geodesic.solve(
                w,
                projection,
                token_weights,
                settings.objective,
                start=start,
                precondition=precondition,
                tolerance=settings.tolerance,
                **limit,
            )
        best = solution if best is None else _better(best, solution)
    assert best is not None
    return best


def _better(a: Solution, b: Solution) -> Solution:
    take = b.objective > a.objective
    chosen = {}
    for field in ("vectors", "objective", "gradient_norm", "n_iter", "converged"):
        x, y = getattr(a, field), getattr(b, field)
        mask = take.to(x.device)
        chosen[field] = torch.where(mask.unsqueeze(1) if x.ndim == 2 else mask, y, x)
    length = max(len(a.history), len(b.history))
    nan = torch.full_like(a.objective, math.nan)
    pad = [h + [nan] * (length - len(h)) for h in (a.history, b.history)]
    return Solution(**chosen, history=[torch.where(take, y, x) for x, y in zip(*pad, strict=True)])


def _decompose_chunk(
    w: Tensor,
    indices: Sequence[int],
    projection: Tensor,
    token_weights: Tensor,
    precondition: Tensor | None,
    settings: Settings,
    n_channels: int,
    seed: int,
    bar: tqdm[Any],
) -> dict[str, Any]:
    m = token_weights.expand(len(w), -1).clone()
    target = w.clone()
    unweighted = Sample.uniform(projection)
    collected: dict[str, list[Tensor]] = {}
    histories = []
    for channel in range(n_channels):
        _check_solvable(target, m, projection, settings, indices, channel)
        solution = _solve(
            target, indices, projection, m, precondition, settings, seed, channel
        )
        found = _read_out(solution.vectors, unweighted, token_weights, settings)
        masked = found.pop("in_tail")
        found["n_masked"] = (masked & (m > settings.weight_when_masked)).sum(1)
        if settings.deflation == "mask":
            m[masked] = m[masked].clamp_max(settings.weight_when_masked)
        else:
            unit = solution.vectors / solution.vectors.norm(dim=1, keepdim=True)
            target = target - unit * (unit * target).sum(1, keepdim=True)
        found["vectors"] = solution.vectors
        found["cosine"] = torch.cosine_similarity(solution.vectors, w)
        for name in ("objective", "gradient_norm", "n_iter", "converged"):
            found[name] = getattr(solution, name)
        for name, value in found.items():
            collected.setdefault(name, []).append(value.cpu())
        histories.append(torch.stack(solution.history, 1).cpu())
        bar.update(len(w))
    return {name: torch.stack(values, 1) for name, values in collected.items()} | {
        "history": histories
    }


def _check_solvable(
    w: Tensor, m: Tensor, projection: Tensor, settings: Settings, indices: Sequence[int], channel: int
) -> None:
    if channel:
        spent = ~(m > settings.weight_when_masked).any(1)
        what = f"no token left unmasked before channel {channel}: raise threshold={settings.threshold}"
    else:
        c, m2, _ = centred_logits(w, Sample.of(projection, m, settings.moments))
        size = (w.norm(dim=1) * projection.norm(dim=0).max()).double()
        spent = m2 <= (8 * torch.finfo(w.dtype).eps * size) ** 2
        what = "logits without variance over the weighted tokens, so no kurtosis"
    if spent.any():
        which = [indices[i] for i in spent.nonzero().flatten()[:5].tolist()]
        raise ValueError(f"{int(spent.sum())} neurons have {what}; neurons {which}")


def _read_out(
    vectors: Tensor, unweighted: Sample, token_weights: Tensor, settings: Settings
) -> dict[str, Tensor]:
    """Statistics, tail and top tokens of channels, from their unweighted projection."""
    z, m2, m4 = centred_logits(vectors, unweighted)
    z /= m2.sqrt().to(z.dtype).unsqueeze(1)
    skewness = (z * z * z).mean(1, dtype=torch.float64)
    tail = (skewness > settings.skewness_threshold).to(torch.int8)
    tail -= (skewness < -settings.skewness_threshold).to(torch.int8)
    # How far out a token is, in the direction that counts for this channel.
    sign = tail.to(z.dtype).unsqueeze(1)
    reach = torch.where(sign == 0, z.abs(), z * sign)
    in_tail = reach > settings.threshold
    reach.masked_fill_(token_weights == 0, -math.inf)
    top_ids = reach.topk(min(N_TOP, z.shape[1]), dim=1).indices
    return {
        "kurtosis": m4 / m2**2 - 3,
        "skewness": skewness,
        "tail": tail,
        "in_tail": in_tail,
        "top_ids": top_ids,
        "top_z": z.gather(1, top_ids),
    }


def _join_histories(parts: list[list[Tensor]]) -> Tensor:
    """Chunks of (n_neurons, points) a channel -> (n_neurons, n_channels, points), padded with NaN."""
    length = max(h.shape[1] for part in parts for h in part)
    pad = torch.nn.functional.pad
    return torch.cat(
        [torch.stack([pad(h, (0, length - h.shape[1]), value=math.nan) for h in part], 1) for part in parts]
    )
