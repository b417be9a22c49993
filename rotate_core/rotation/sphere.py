"""Conjugate gradients on the sphere with an exact line search: the default solver (ours).

A reflection of ``w`` reaches every point of the sphere of radius ``|w|``, so the paper's problem is
to maximise F over unit vectors s. An iteration chooses a tangent direction d and goes to the best
point of the geodesic ``cos t s + sin t d``. Its logits are ``cos t a + sin t b`` with ``a = U^T s``
and ``b = U^T d``, so their central moments are polynomials in cos t and sin t with the joint
moments ``E[a^i b^j]`` as coefficients: one product ``U^T d`` buys F along the *whole* geodesic.

An iteration costs two products with ``U`` (``4 d_model d_vocab`` flops) and about 16 elementwise
passes over ``d_vocab`` values per neuron, most of them in cache.

Source: ours. Zarzoso and Comon (2010, arXiv:1002.3684) find the best step along a straight line
from the same moments. Absil, Mahony and Sepulchre (2008), chapter 8: gradients on a manifold.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .moments import Sample, centred_logits, joint_moments, moments_along, slog_kurtosis_gradient
from .settings import Settings

KICK = 0.03  # radians that a neuron is moved by, where it stalls: so small that it keeps its hill


@dataclass(frozen=True)
class Solution:
    """A solver's result, one row per neuron."""

    vectors: Float[Tensor, "n_neurons d_model"]  # the channels, each of its neuron's norm
    objective: Float[Tensor, " n_neurons"]  # F there, float64
    gradient_norm: Float[Tensor, " n_neurons"]  # of F along the unit sphere there, float64
    n_iter: Int[Tensor, " n_neurons"]  # iterations taken
    converged: Bool[Tensor, " n_neurons"]  # whether the solver's own stopping rule was met
    history: list[Float[Tensor, " n_neurons"]]  # F after each iteration, NaN once a neuron has left


@dataclass
class State:
    """Where the batch stands; one row per neuron that is still at work."""

    rows: Int[Tensor, " n_active"]  # of the caller's batch
    w: Float[Tensor, "n_active d_model"]  # unit weight vector
    s: Float[Tensor, "n_active d_model"]  # current point on the unit sphere
    a: Float[Tensor, "n_active d_vocab"]  # its centred logits
    m2: Float[Tensor, " n_active"]  # their second and fourth central moment, float64
    m4: Float[Tensor, " n_active"]
    value: Float[Tensor, " n_active"]  # F, float64
    gain: Float[Tensor, " n_active"]  # what the last iteration added to F
    sample: Sample
    kicked: Bool[Tensor, " n_active"]
    d: Tensor | None = None  # tangent search direction, carried along to the current point
    g: Tensor | None = None  # the last gradient and preconditioned gradient, at the point before
    pg: Tensor | None = None

    def keep(self, index: Int[Tensor, " n_kept"]) -> None:
        """Drop all neurons but these from the batch."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                setattr(self, field.name, value[index])
        self.sample = self.sample.keep(index)


def solve(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, "n_neurons d_vocab"],
    settings: Settings,
    *,
    start: Float[Tensor, "n_neurons d_model"] | None = None,
    precondition: Float[Tensor, "d_model d_model"] | None = None,
    kick: Float[Tensor, "n_neurons d_model"] | None = None,
) -> Solution:
    """One channel of each neuron: maximise F over the sphere by preconditioned conjugate gradients.

    A neuron has converged, and leaves the batch, when an iteration gains less than ``tolerance``
    AND the gradient is shorter than ``gradient_tolerance``: on a plateau the gain is small, too. It
    stalls when its gain is lost in rounding while its gradient is not small: then it is moved by
    :data:`KICK` and begins anew, once; what it had is kept where that is better by ``tolerance``.

    Args:
        w: weight vectors, none of norm 0.
        projection: U.
        token_weights: m, one row per neuron.
        settings: objective, tolerances, and after how many iterations a neuron is returned as is.
        start: where to begin (any norm but 0); None begins at w.
        precondition: symmetric positive definite, see :func:`preconditioner`; None for none.
        kick: where to kick a neuron that stalls (any tangent norm but 0); None: it leaves at once.
    """
    norm = w.norm(dim=1, keepdim=True)
    state = begin(w / norm, w if start is None else start, projection, token_weights, settings)
    n_iter, converged = torch.zeros(len(w), dtype=torch.int64), torch.zeros(len(w)).bool()
    value, steepest = state.value.clone(), torch.zeros_like(state.value)
    solution = Solution(w.clone(), value, steepest, n_iter, converged, [value.clone()])
    tolerance, rounding = settings.tolerance, min(settings.tolerance, torch.finfo(w.dtype).eps)
    for taken in range(settings.max_iter + 1):
        g = gradient(state, settings)
        steepness = g.norm(dim=1).double()
        done = (state.gain < tolerance) & (steepness < settings.gradient_tolerance)
        stalled = (state.gain < rounding) & ~done
        to_kick = stalled & ~state.kicked if kick is not None else torch.zeros_like(done)
        leaving = done | (stalled & ~to_kick) | (taken == settings.max_iter)
        worse = state.kicked & (state.value < solution.objective[state.rows] - tolerance)
        noted = (leaving | to_kick) & ~worse
        if noted.any():
            rows = state.rows[noted]
            solution.vectors[rows] = state.s[noted] * norm[rows]
            solution.objective[rows] = state.value[noted]
            solution.gradient_norm[rows] = steepness[noted]
            solution.converged[rows.cpu()] = done[noted].cpu()
        solution.n_iter[state.rows[leaving].cpu()] = taken
        if leaving.all():
            break
        if kick is not None and (to_kick & ~leaving).any():
            _kick(state, to_kick, kick[state.rows], settings)
            g = gradient(state, settings)
        if leaving.any():
            staying = (~leaving).nonzero().squeeze(1)
            state.keep(staying)
            g = g[staying]
        advance(state, g, settings, precondition)
        full = torch.full_like(solution.objective, math.nan)
        full[state.rows] = state.value
        solution.history.append(full)
    return solution


def begin(w: Tensor, start: Tensor, projection: Tensor, m: Tensor, settings: Settings) -> State:
    """The state before the first iteration; arguments as of :func:`solve`, but w has norm 1."""
    s = start / start.norm(dim=1, keepdim=True)
    sample = Sample.of(projection, m, settings.moments)
    a, m2, m4, value = evaluate(w, s, sample, settings)
    rows = torch.arange(len(w), device=w.device)
    gain = torch.full_like(value, math.inf)
    return State(rows, w, s, a, m2, m4, value, gain, sample, torch.zeros_like(value).bool())


def evaluate(w: Tensor, s: Tensor, sample: Sample, settings: Settings) -> tuple[Tensor, ...]:
    """Centred logits of unit vectors s, their central moments m2 and m4, and F with unit w."""
    a, m2, m4 = centred_logits(s, sample)
    return a, m2, m4, settings.objective(m4 / m2**2 - 3, (w * s).sum(1).double())


def gradient(state: State, settings: Settings) -> Float[Tensor, "n_active d_model"]:
    """Gradient of F along the sphere, at the current point; one product with ``U``."""
    g = slog_kurtosis_gradient(state.a, state.m2, state.m4, state.sample)
    g = g.mul_(settings.lambda_kurtosis).add_(state.w, alpha=settings.lambda_fidelity)
    return tangent(g, state.s)


def advance(state: State, g: Tensor, settings: Settings, precondition: Tensor | None) -> None:
    """One iteration, in place: choose a direction by the gradient g, go to its best point."""
    s = state.s
    pg = g if precondition is None else tangent(g @ precondition, s)
    state.d, state.g, state.pg = _conjugate(state, g, pg), g, pg
    length = state.d.norm(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    direction = state.d / length

    b, moments = joint_moments(state.a, direction, state.sample)
    cosine_s = (state.w * s).sum(1).double()
    cosine_d = (state.w * direction).sum(1).double()
    t = line_search(moments, cosine_s, cosine_d, settings)
    state.m2, state.m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
    cos_t, sin_t = torch.cos(t), torch.sin(t)
    value = settings.objective(state.m4 / state.m2**2 - 3, cos_t * cosine_s + sin_t * cosine_d)
    state.gain, state.value = value - state.value, value

    cos_t, sin_t = (x.to(s.dtype).unsqueeze(1) for x in (cos_t, sin_t))
    state.a.mul_(cos_t).addcmul_(b, sin_t)
    moved = cos_t * s + sin_t * direction
    state.s = moved / moved.norm(dim=1, keepdim=True)
    state.d = length * (cos_t * direction - sin_t * s)  # parallel transport of d along its geodesic


def _conjugate(state: State, g: Tensor, pg: Tensor) -> Float[Tensor, "n_active d_model"]:
    """Polak-Ribiere+ direction, transported by projection; pg where that would not ascend."""
    if state.d is None or state.g is None or state.pg is None:
        return pg
    change = (pg * (g - tangent(state.g, state.s))).sum(1)
    beta = change / (state.pg * state.g).sum(1).clamp_min(torch.finfo(g.dtype).tiny)
    d = pg + beta.clamp_min(0).unsqueeze(1) * tangent(state.d, state.s)
    return torch.where(((d * g).sum(1) > 0).unsqueeze(1), d, pg)


def tangent(v: Float[Tensor, "n d_model"], s: Float[Tensor, "n d_model"]) -> Tensor:
    """Project v onto the tangent space of the sphere at s, row by row."""
    return v - s * (v * s).sum(1, keepdim=True)


def _kick(state: State, to_kick: Tensor, directions: Tensor, settings: Settings) -> None:
    """Move neurons by :data:`KICK` and forget their directions; one product with ``U``."""
    which = to_kick.nonzero().squeeze(1)
    aside = tangent(directions[which], state.s[which])
    aside = aside / aside.norm(dim=1, keepdim=True)
    s = math.cos(KICK) * state.s[which] + math.sin(KICK) * aside
    there = evaluate(state.w[which], s, state.sample.keep(which), settings)
    state.s[which] = s
    state.a[which], state.m2[which], state.m4[which], state.value[which] = there
    state.gain[which] = math.inf
    state.kicked[which] = True
    if state.d is not None:
        state.d[which] = 0.0  # so that the next direction is the preconditioned gradient


def line_search(
    moments: Float[Tensor, "n_neurons 8"], cosine_s: Tensor, cosine_d: Tensor, settings: Settings
) -> Float[Tensor, " n_neurons"]:
    """The angle in [0, pi/2] with the largest F on the geodesic, exact to 2.5e-5; float64.

    A grid, refined around its best, from joint moments and w's cosines with s and d (n_neurons,).
    """
    unit = torch.linspace(0, 1, 64, dtype=torch.float64, device=moments.device)
    low = torch.zeros_like(cosine_s).unsqueeze(1)
    high = torch.full_like(low, math.pi / 2)
    for _ in range(3):
        t = low + (high - low) * unit
        m2, m4 = moments_along(moments, t)
        cosine = torch.cos(t) * cosine_s.unsqueeze(1) + torch.sin(t) * cosine_d.unsqueeze(1)
        value = settings.objective(m4 / m2**2 - 3, cosine)
        best = value.argmax(1, keepdim=True)
        low = t.gather(1, (best - 1).clamp_min(0))
        high = t.gather(1, (best + 1).clamp_max(len(unit) - 1))
    return t.gather(1, best).squeeze(1)


def preconditioner(
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"],
    *,
    moments: str = "weighted",
    ridge: float = 1e-3,
) -> Float[Tensor, "d_model d_model"]:
    """Inverse vocabulary covariance, ``(U diag(p) U^T - mu mu^T + ridge * mean eigenvalue)^-1``."""
    sample = Sample.of(projection, token_weights.unsqueeze(0), moments)
    d_model = projection.shape[0]
    covariance = projection.new_zeros(d_model, d_model, dtype=torch.float64)
    for block in sample.blocks(d_model):
        columns = projection[:, block]
        factor = sample.p_block(block)
        if sample.scale is not None:
            factor = factor * sample.scale[:, block] ** 2
        covariance += (columns * factor) @ columns.T
    mean = sample.mean_vector[0].double()
    covariance -= torch.outer(mean, mean)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    return torch.linalg.inv(covariance).to(projection.dtype)
