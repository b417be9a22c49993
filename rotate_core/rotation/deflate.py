"""Solve, mask the channel's tokens, repeat: all channels of some neurons (paper, section 3.3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from . import reflection, sphere
from .moments import Sample, centred_logits, joint_moments
from .settings import Settings
from .tails import outward, polarity_of, z_scores

N_TOP = 50
"""Top tokens kept with each channel."""
SOLVED = ("vectors", "objective", "gradient_norm", "n_iter", "converged")
READ_OUT = ("kurtosis", "skewness", "polarity", "top_ids", "top_z", "n_masked", "cosine")
"""Arrays of a channel that come from the solver; that follow from its vector and what is masked."""


@dataclass(frozen=True)
class Setup:
    """The part of the problem that all channels of one batch share."""

    projection: Float[Tensor, "d_model d_vocab"]
    precondition: Float[Tensor, "d_model d_model"] | None
    settings: Settings
    seed: int
    indices: Sequence[int]

    def normal(self, *shape: int, key: tuple[int, ...]) -> Tensor:
        """Standard normal draws, a generator per neuron: the batch does not matter."""
        draws = []
        for index in self.indices:
            mixed = 0
            for part in (*key, index):  # multiplicative mixing, the constants of splitmix64
                mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
            draws.append(torch.randn(shape, generator=torch.Generator().manual_seed(mixed)))
        return torch.stack(draws).to(self.projection)


def deflate(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"] | None = None,
    *,
    n_channels: int = 5,
    settings: Settings | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    precondition: Float[Tensor, "d_model d_model"] | None = None,
    given: Mapping[str, Tensor] | None = None,
    on_channel: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Channels of each neuron, one after the other.

    Args:
        w: weight vectors; they and all below on one device and in one dtype.
        projection: U.
        token_weights: m before any channel is found; None for ones.
        n_channels: how many, the given ones included.
        settings: None for ours.
        seed: of the random starts and kicks.
        indices: the neurons' numbers, which seed starts and name neurons in errors; None: rows.
        precondition: :func:`.sphere.preconditioner`, where it is at hand.
        given: arrays (n_neurons, n_given, ...) of known channels: masked, not solved for.
        on_channel: called after each, for progress.

    Returns:
        Arrays (n_neurons, n_channels, ...) by name, :data:`SOLVED` and :data:`READ_OUT`, on the
        CPU; and the history of each channel, (n_neurons, n_points).

    Raises:
        ValueError: logits without variance, or all tokens of a neuron masked.
    """
    settings = settings or Settings()
    indices = range(len(w)) if indices is None else indices
    m = torch.ones_like(projection[0]) if token_weights is None else token_weights
    if settings.solver == "geodesic" and settings.precondition and precondition is None:
        precondition = sphere.preconditioner(projection, m, moments=settings.moments)
    allowed, m = m > 0, m.expand(len(w), -1).clone()
    unweighted, target = Sample.uniform(projection), w
    setup = Setup(projection, precondition, settings, seed, indices)
    given = given or {"vectors": w.new_empty(len(w), 0, w.shape[1])}
    channels: list[dict[str, Tensor]] = []
    histories = []
    _, m2, _ = centred_logits(w, Sample.of(projection, m, settings.moments))
    rounding = torch.finfo(w.dtype).eps * w.norm(dim=1) * projection.norm(dim=0).max()
    why = "their logits do not vary over the tokens that count, so they have no kurtosis; wanted "
    why += "a projection with distinct columns"
    _refuse(m2 <= (8 * rounding.double()) ** 2, indices, why)
    for channel in range(n_channels):
        if channel:
            why = f"all tokens are masked before channel {channel}; wanted fewer channels or a "
            why += f"threshold above {settings.threshold}"
            _refuse(~(m > settings.masked_weight).any(1), indices, why)
        if channel < given["vectors"].shape[1]:
            arrays = {name: values[:, channel] for name, values in given.items()}
            vectors = arrays["vectors"].to(w)
            _, in_tail = _read_out(vectors, unweighted, allowed, settings)
            histories.append(torch.full((len(w), 1), math.nan))
        else:
            solution = _best(target, m, setup, channel)
            vectors = solution.vectors
            arrays, in_tail = _read_out(vectors, unweighted, allowed, settings)
            arrays["n_masked"] = (in_tail & (m > settings.masked_weight)).sum(1)
            arrays["cosine"] = torch.cosine_similarity(vectors, w)
            arrays |= {name: getattr(solution, name) for name in SOLVED}
            histories.append(torch.stack(solution.history, 1).cpu())
        channels.append({name: array.cpu() for name, array in arrays.items()})
        if settings.deflation == "mask":
            masked = torch.full_like(m, settings.masked_weight)
            m = torch.where(in_tail, masked if settings.raise_masked else m.minimum(masked), m)
        elif settings.deflation == "subtract-grid":
            target = subtract_by_grid(target, vectors, projection)
        else:
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            target = target - unit * (unit * target).sum(1, keepdim=True)
        on_channel()
    return {name: torch.stack([c[name] for c in channels], 1) for name in channels[0]}, histories


def _best(w: Tensor, m: Tensor, setup: Setup, channel: int) -> sphere.Solution:
    """Of ``restarts`` solutions the one with the highest objective, neuron by neuron."""
    settings, problem = setup.settings, (w, setup.projection, m, setup.settings)
    solutions = []
    for restart in range(settings.restarts):
        key = (setup.seed, channel, restart)
        if settings.solver == "householder":
            u = setup.normal(settings.n_reflections, w.shape[1], key=key)
            solutions.append(reflection.solve(*problem, start=u))
        else:
            start, kick = _start(w, m, setup, key), setup.normal(w.shape[1], key=(*key, 1))
            solution = sphere.solve(
                *problem, start=start, precondition=setup.precondition, kick=kick
            )
            solutions.append(solution)
    if len(solutions) == 1:
        return solutions[0]
    best = torch.stack([s.objective for s in solutions]).argmax(0)  # the first of equals
    never = torch.full_like(solutions[0].objective, math.nan)

    def picked(values: Sequence[Tensor]) -> Tensor:
        device = values[0].device
        return torch.stack(list(values))[best.to(device), torch.arange(len(w), device=device)]

    arrays = {name: picked([getattr(s, name) for s in solutions]) for name in SOLVED}
    points = itertools.zip_longest(*(s.history for s in solutions), fillvalue=never)
    return sphere.Solution(**arrays, history=[picked(point) for point in points])


def _start(w: Tensor, m: Tensor, setup: Setup, key: tuple[int, ...]) -> Tensor:
    """Where the geodesic solver begins; ``Settings.restarts`` tells the order."""
    settings, projection, restart = setup.settings, setup.projection, key[-1]
    if restart == 0:
        if settings.start == "weight":
            return w
        return reflection.reflect(setup.normal(w.shape[1], key=key), w)
    if restart == 1:
        closer = replace(settings, lambda_fidelity=4 * settings.lambda_fidelity)
        closer = replace(closer, tolerance=1e-3, gradient_tolerance=1e9)  # by the gain alone
        return sphere.solve(w, projection, m, closer, precondition=setup.precondition).vectors
    sample = Sample.of(projection, m, settings.moments)
    logits, _, _ = centred_logits(w, sample)
    reach = (logits * sample.p).abs() if sample.scale is None else logits.abs()
    token = reach.topk(min(restart - 1, reach.shape[1]), dim=1).indices[:, -1]
    column = projection[:, token].T - sample.mean_vector
    sign = torch.sign(logits.gather(1, token.unsqueeze(1)))
    w_unit = w / w.norm(dim=1, keepdim=True)
    toward = sphere.tangent(sign * column, w_unit)
    return w_unit + toward / toward.norm(dim=1, keepdim=True)


def _read_out(
    vectors: Tensor, unweighted: Sample, allowed: Tensor, settings: Settings
) -> tuple[dict[str, Tensor], Tensor]:
    """Statistics and top tokens of channels, and which tokens are in their tail."""
    z, m2, m4 = centred_logits(vectors, unweighted)
    z /= m2.sqrt().to(z.dtype).unsqueeze(1)
    skewness = (z * z * z).mean(1, dtype=torch.float64)
    polarity = polarity_of(skewness, settings.skewness_threshold)
    reach = outward(z, polarity)
    in_tail = reach > settings.threshold
    top_ids = reach.masked_fill_(~allowed, -math.inf).topk(min(N_TOP, z.shape[1]), dim=1).indices
    arrays = {"kurtosis": m4 / m2**2 - 3, "skewness": skewness, "polarity": polarity}
    return arrays | {"top_ids": top_ids, "top_z": z.gather(1, top_ids)}, in_tail


def subtract_by_grid(target: Tensor, vectors: Tensor, projection: Tensor) -> Tensor:
    """Take each channel out of what is left of its neuron (target) as the authors' ablation does.

    With logits x of the target and y of the channel, alpha of a grid in [0, 1] minimises
    ``k(x - alpha y) + 5 mean |x - alpha y|``, the mean over tokens with a z-score of 7 or more in y
    (on its heavier side where its skewness is beyond 0.05). Where that does not lower the kurtosis
    of x, alpha is 0. Moments are unweighted, and polynomials in alpha.

    Source: the public code of arXiv:2604.06005 (its subtraction ablation).
    """
    x, y = (v @ projection for v in (target, vectors))
    _, moments = joint_moments(x - x.mean(1, keepdim=True), vectors, Sample.uniform(projection))
    alpha = torch.linspace(0, 1, 1000, dtype=torch.float64, device=x.device).unsqueeze(0)
    e20, e11, e02, e40, e31, e22, e13, e04 = moments.unsqueeze(2).unbind(1)
    m2 = e20 - 2 * alpha * e11 + alpha**2 * e02
    m4 = e40 - 4 * alpha * e31 + 6 * alpha**2 * e22 - 4 * alpha**3 * e13 + alpha**4 * e04
    kurtosis = m4 / m2**2 - 3
    kurtosis[m2 < 1e-5 * e20] = math.inf  # by rounding alone is anything left

    z = z_scores(vectors, projection)
    extreme = outward(z, polarity_of((z * z * z).mean(1), 0.05)) >= 7.0
    loss = kurtosis.clone()
    for i in extreme.any(1).nonzero().flatten().tolist():
        left = x[i, extreme[i]].unsqueeze(1) - alpha * y[i, extreme[i]].unsqueeze(1)
        loss[i] += 5.0 * left.abs().mean(0)
    best = loss.argmin(1, keepdim=True)
    lower = kurtosis.gather(1, best) < kurtosis[:, :1]
    return target - (alpha[0, best] * lower).to(target.dtype) * vectors


def _refuse(bad: Tensor, indices: Sequence[int], why: str) -> None:
    """Raise an error that names at most five of the bad neurons, if there are any."""
    if bad.any():
        numbers = [indices[i] for i in bad.nonzero().flatten()[:5].tolist()]
        raise ValueError(f"neurons {numbers}: {why}")
