"""Solve, mask the channel's tokens, repeat, for the neurons of one batch (paper, section 3.3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.rotation import reflection as householder
from rotate_core.rotation import sphere as geodesic
from rotate_core.rotation.moments import Sample, Solution, centred_logits
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.subtraction import subtract_by_grid
from rotate_core.rotation.tails import reach

N_TOP = 50
"""Top tokens kept with each channel; its whole tail is in an atlas."""
SOLVED = ("vectors", "objective", "gradient_norm", "n_iter", "converged")
"""Arrays of a channel that come from the solver."""
KICK_DRAW = 1
"""Sets the draws of kicks apart from those of starts."""
READ_OUT = ("kurtosis", "skewness", "polarity", "top_ids", "top_z", "n_masked", "cosine")
"""Arrays of a channel that follow from its vector and what is masked before it."""


@dataclass(frozen=True)
class Setup:
    """What all batches of one call share."""

    projection: Float[Tensor, "d_model d_vocab"]
    token_weights: Float[Tensor, " d_vocab"]
    """Before any channel is found."""
    precondition: Float[Tensor, "d_model d_model"] | None
    settings: Settings
    seed: int


def deflate(
    w: Float[Tensor, "n_neurons d_model"],
    indices: Sequence[int],
    setup: Setup,
    *,
    n_channels: int,
    given: Mapping[str, Tensor],
    on_channel: Callable[[], object],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Channels of each neuron, one after the other.

    Args:
        w: weight vectors, on the projection's device and in its dtype.
        indices: the neurons' numbers: they seed the random starts and name neurons in errors.
        setup: vocabulary, settings, seed.
        n_channels: how many, the given ones included.
        given: arrays of the channels that are known, (n_neurons, n_given, ...): these are masked
            and returned, not solved for.
        on_channel: called after each, for progress.

    Returns:
        The arrays of :class:`rotate_core.Channels`, on the CPU, (n_neurons, n_channels, ...); and
        the history of each channel, (n_neurons, n_points).

    Raises:
        ValueError: a neuron's logits have no variance, or all its tokens are masked.
    """
    settings = setup.settings
    unweighted = Sample.uniform(setup.projection)
    m = setup.token_weights.expand(len(w), -1).clone()
    target = w
    _check_variance(w, m, indices, setup)
    found: list[dict[str, Tensor]] = []
    histories = []
    for channel in range(n_channels):
        if channel:
            _check_tokens_left(m, indices, settings, channel)
        if channel < given["vectors"].shape[1]:
            arrays = {name: values[:, channel] for name, values in given.items()}
            vectors = arrays["vectors"].to(w)
            _, in_tail = _read_out(vectors, unweighted, setup)
            histories.append(torch.full((len(w), 1), math.nan))
        else:
            solution = _best_solution(target, m, indices, setup, channel)
            vectors = solution.vectors
            arrays, in_tail = _read_out(vectors, unweighted, setup)
            arrays["n_masked"] = (in_tail & (m > settings.masked_weight)).sum(1)
            arrays["cosine"] = torch.cosine_similarity(vectors, w)
            for name in SOLVED:
                arrays[name] = getattr(solution, name)
            histories.append(torch.stack(solution.history, 1).cpu())
        found.append({name: array.cpu() for name, array in arrays.items()})
        if settings.deflation == "mask":
            masked = torch.full_like(m, settings.masked_weight)
            m = torch.where(in_tail, masked if settings.raise_masked else m.minimum(masked), m)
        elif settings.deflation == "subtract-grid":
            target = subtract_by_grid(target, vectors, setup.projection)
        else:
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            target = target - unit * (unit * target).sum(1, keepdim=True)
        on_channel()
    return {
        name: torch.stack([arrays[name] for arrays in found], 1) for name in found[0]
    }, histories


def _best_solution(
    w: Tensor, token_weights: Tensor, indices: Sequence[int], setup: Setup, channel: int
) -> Solution:
    """The solution with the best objective among ``restarts``."""
    settings = setup.settings
    problem = (w, setup.projection, token_weights, settings.objective)
    best: Solution | None = None
    for restart in range(settings.restarts):
        key = (setup.seed, channel, restart)
        if settings.solver == "householder":
            u = _normal((settings.n_reflections, w.shape[1]), indices, key, like=w)
            solution = householder.solve(
                *problem,
                start=u,
                max_iter=settings.max_iter,
                learning_rate=settings.learning_rate,
                joint=settings.joint,
            )
        else:
            solution = geodesic.solve(
                *problem,
                start=_start(w, token_weights, indices, setup, key),
                precondition=setup.precondition,
                tolerance=settings.tolerance,
                gradient_tolerance=settings.gradient_tolerance,
                kick=_normal((w.shape[1],), indices, (*key, KICK_DRAW), like=w),
                max_iter=settings.max_iter,
            )
        best = solution if best is None else _better(best, solution)
    assert best is not None
    return best


def _start(
    w: Tensor, token_weights: Tensor, indices: Sequence[int], setup: Setup, key: tuple[int, ...]
) -> Tensor:
    """Where the geodesic solver begins; ``Settings.restarts`` tells the order."""
    settings = setup.settings
    restart = key[-1]
    if restart == 0:
        if settings.start == "weight":
            return w
        return householder.reflect(_normal((w.shape[1],), indices, key, like=w), w)
    if restart == 1:
        closer = dataclasses.replace(
            settings.objective, lambda_fidelity=4 * settings.lambda_fidelity
        )
        return geodesic.solve(
            w,
            setup.projection,
            token_weights,
            closer,
            precondition=setup.precondition,
            tolerance=1e-3,
            gradient_tolerance=math.inf,
            max_iter=settings.max_iter,
        ).vectors
    sample = Sample.of(setup.projection, token_weights, settings.moments)
    logits, _, _ = centred_logits(w, sample)
    reach = (logits * sample.p).abs() if sample.scale is None else logits.abs()
    token = reach.topk(min(restart - 1, reach.shape[1]), dim=1).indices[:, -1]
    column = setup.projection[:, token].T - sample.mean_vector
    sign = torch.sign(logits.gather(1, token.unsqueeze(1)))
    toward = geodesic.tangent(sign * column, w / w.norm(dim=1, keepdim=True))
    return w / w.norm(dim=1, keepdim=True) + toward / toward.norm(dim=1, keepdim=True)


def _better(a: Solution, b: Solution) -> Solution:
    """Neuron by neuron, the solution with the higher objective."""
    take = b.objective > a.objective

    def pick(x: Tensor, y: Tensor) -> Tensor:
        mask = take.to(x.device)
        return torch.where(mask.unsqueeze(1) if x.ndim == 2 else mask, y, x)

    never = torch.full_like(a.objective, math.nan)
    length = max(len(a.history), len(b.history))
    histories = [h + [never] * (length - len(h)) for h in (a.history, b.history)]
    return Solution(
        vectors=pick(a.vectors, b.vectors),
        objective=pick(a.objective, b.objective),
        gradient_norm=pick(a.gradient_norm, b.gradient_norm),
        n_iter=pick(a.n_iter, b.n_iter),
        converged=pick(a.converged, b.converged),
        history=[pick(x, y) for x, y in zip(*histories, strict=True)],
    )


def _normal(
    shape: tuple[int, ...], indices: Sequence[int], key: tuple[int, ...], *, like: Tensor
) -> Tensor:
    """Standard normal draws, a generator of its own for each neuron: the batch does not matter."""
    draws = []
    for index in indices:
        mixed = 0
        for part in (*key, index):  # multiplicative mixing, the constants of splitmix64
            mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
        draws.append(torch.randn(shape, generator=torch.Generator().manual_seed(mixed)))
    return torch.stack(draws).to(like)


def _read_out(
    vectors: Tensor, unweighted: Sample, setup: Setup
) -> tuple[dict[str, Tensor], Tensor]:
    """Statistics and top tokens of channels, and which tokens are in their tail."""
    settings = setup.settings
    z, m2, m4 = centred_logits(vectors, unweighted)
    z /= m2.sqrt().to(z.dtype).unsqueeze(1)
    skewness = (z * z * z).mean(1, dtype=torch.float64)
    tail = (skewness > settings.skewness_threshold).to(torch.int8)
    tail -= (skewness < -settings.skewness_threshold).to(torch.int8)
    outward = reach(z, tail)
    in_tail = outward > settings.threshold
    outward.masked_fill_(setup.token_weights == 0, -math.inf)
    top_ids = outward.topk(min(N_TOP, z.shape[1]), dim=1).indices
    arrays = {
        "kurtosis": m4 / m2**2 - 3,
        "skewness": skewness,
        "polarity": tail,
        "top_ids": top_ids,
        "top_z": z.gather(1, top_ids),
    }
    return arrays, in_tail


def _check_variance(w: Tensor, m: Tensor, indices: Sequence[int], setup: Setup) -> None:
    _, m2, _ = centred_logits(w, Sample.of(setup.projection, m, setup.settings.moments))
    rounding = torch.finfo(w.dtype).eps * w.norm(dim=1) * setup.projection.norm(dim=0).max()
    constant = m2 <= (8 * rounding.double()) ** 2
    if constant.any():
        raise ValueError(
            f"neurons {first_numbers(constant, indices)}: their logits do not vary over the tokens "
            "that count, so they have no kurtosis; wanted a projection with distinct columns"
        )


def _check_tokens_left(m: Tensor, indices: Sequence[int], settings: Settings, channel: int) -> None:
    spent = ~(m > settings.masked_weight).any(1)
    if spent.any():
        raise ValueError(
            f"neurons {first_numbers(spent, indices)}: all tokens are masked before channel "
            f"{channel}; wanted fewer channels or a threshold above {settings.threshold}"
        )


def first_numbers(bad: Tensor, indices: Sequence[int]) -> list[int]:
    """The numbers of at most five neurons, for an error."""
    return [indices[i] for i in bad.nonzero().flatten()[:5].tolist()]
