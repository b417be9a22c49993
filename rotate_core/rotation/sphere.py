"""Conjugate gradients on the sphere with an exact line search: the default solver (ours).

A reflection of ``w`` reaches every point of the sphere of radius ``|w|``, so the paper's problem is
to maximise F over unit vectors s. An iteration chooses a tangent direction and goes to the best
point of its geodesic, which :mod:`rotate_core.rotation.line_search` finds at the price of one product with
``U``. There is no learning rate and no schedule.

Cost of an iteration, per neuron: two products with ``U`` (``4 d_model d_vocab`` flops, U read twice
for the whole batch) and about 16 elementwise passes over ``d_vocab`` values, most of them in cache;
``a``, ``b`` and the token weights (12 bytes a token in float32) come from memory.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.rotation.line_search import joint_moments, line_search, moments_along
from rotate_core.rotation.moments import (
    Objective,
    Sample,
    Solution,
    centred_logits,
    slog_kurtosis_gradient,
)

KICK = 0.03
"""Radians that a neuron is moved by, where it stalls: so small that it keeps its hill. For plateaus
such a kick alone is no help: most fall back on them; what leads off is to go on."""


def preconditioner(
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"],
    *,
    moments: str = "weighted",
    ridge: float = 1e-3,
) -> Float[Tensor, "d_model d_model"]:
    """Inverse vocabulary covariance, ``(U diag(p) U^T - mu mu^T + ridge * mean eigenvalue)^-1``.

    It makes the quadratic part of the objective, the variance, isotropic. One a vocabulary,
    shared by all neurons. Computed in float64 block by block.
    """
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


@dataclass
class State:
    """Where the batch stands; one row per neuron that is still at work."""

    rows: Int[Tensor, " n_active"]
    """Row of the caller's batch."""
    w: Float[Tensor, "n_active d_model"]
    """Unit weight vector."""
    s: Float[Tensor, "n_active d_model"]
    """Current point on the unit sphere."""
    a: Float[Tensor, "n_active d_vocab"]
    """Its centred logits."""
    m2: Tensor
    m4: Tensor
    """Second and fourth central moment of the logits (n_active,), float64."""
    value: Float[Tensor, " n_active"]
    """F, float64."""
    gain: Float[Tensor, " n_active"]
    """What the last iteration added to F."""
    sample: Sample
    kicked: Tensor
    """Whether it has been kicked (n_active,), bool."""
    d: Tensor | None = None
    """Tangent search direction, (n_active, d_model), carried along to the current point."""
    g: Tensor | None = None
    pg: Tensor | None = None
    """The last gradient and preconditioned gradient, at the point before."""

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
    objective: Objective,
    *,
    start: Float[Tensor, "n_neurons d_model"] | None = None,
    precondition: Float[Tensor, "d_model d_model"] | None = None,
    tolerance: float = 1e-5,
    gradient_tolerance: float = 3e-3,
    kick: Float[Tensor, "n_neurons d_model"] | None = None,
    max_iter: int = 200,
) -> Solution:
    """One channel of each neuron: maximise F over the sphere by preconditioned conjugate gradients.

    Polak-Ribiere+ directions, transported by projection onto the tangent space, restarted where
    they do not ascend.

    A neuron has converged, and leaves the batch, when an iteration gains less than ``tolerance``
    AND the gradient along the sphere is shorter than ``gradient_tolerance``. The gain alone is
    small on a plateau, too. There the gradient is no longer than where the gain of a neuron near
    its optimum gets small. But a few iterations later it has fallen at an optimum, and on most
    plateaus has not; so the search goes on until it has.

    A neuron stalls when its gain is lost in rounding while its gradient is not small. It is moved
    by :data:`KICK` and begins anew with fresh directions, once; if it stalls again it leaves, not
    converged. What it had before the kick is kept where that is better by ``tolerance``.

    What this does not catch: a saddle, where the gradient is small as well.

    Args:
        w: weight vectors, none of norm 0.
        projection: U.
        token_weights: m, one row per neuron.
        objective: F.
        start: where to begin (any norm but 0); None begins at w.
        precondition: symmetric positive definite, see :func:`preconditioner`; None for none.
        tolerance: smallest gain of F worth another iteration.
        gradient_tolerance: length of F's gradient along the unit sphere, per radian; see
            ``Settings.gradient_tolerance``.
        kick: where to kick a neuron that stalls, of any norm but 0 in the tangent space; None
            lets it leave at once.
        max_iter: iterations after which a neuron is returned as it stands, not converged.

    Returns:
        The channels; ``history`` starts with F at the start, and falls where a neuron is kicked.

    Source: ours; Absil, Mahony and Sepulchre (2008), chapter 8, for conjugate gradients on a
    manifold. For the line search see :mod:`rotate_core.rotation.line_search`.
    """
    n_neurons = len(w)
    norm = w.norm(dim=1, keepdim=True)
    state = begin(w / norm, w if start is None else start, projection, token_weights, objective)
    solution = Solution(
        vectors=w.clone(),
        objective=state.value.clone(),
        gradient_norm=torch.zeros_like(state.value),
        n_iter=torch.zeros(n_neurons, dtype=torch.int64),
        converged=torch.zeros(n_neurons, dtype=torch.bool),
        history=[state.value.clone()],
    )
    rounding = min(tolerance, torch.finfo(w.dtype).eps)
    for n_iter in range(max_iter + 1):
        g = gradient(state, objective)
        steepness = g.norm(dim=1).double()
        done = (state.gain < tolerance) & (steepness < gradient_tolerance)
        stalled = (state.gain < rounding) & ~done
        to_kick = stalled & ~state.kicked if kick is not None else torch.zeros_like(done)
        leaving = done | (stalled & ~to_kick) if n_iter < max_iter else torch.ones_like(done)
        noted = leaving | to_kick
        if noted.any():
            _note(solution, state, noted, done, steepness, norm, tolerance)
            solution.n_iter[state.rows[leaving].cpu()] = n_iter
        if leaving.all():
            break
        if kick is not None and (to_kick & ~leaving).any():
            _kick(state, to_kick, kick[state.rows], objective)
            g = gradient(state, objective)
        if leaving.any():
            staying = (~leaving).nonzero().squeeze(1)
            state.keep(staying)
            g = g[staying]
        advance(state, g, objective, precondition)
        full = torch.full_like(solution.objective, math.nan)
        full[state.rows] = state.value
        solution.history.append(full)
    return solution


def _note(
    solution: Solution,
    state: State,
    noted: Tensor,
    done: Tensor,
    steepness: Tensor,
    norm: Tensor,
    tolerance: float,
) -> None:
    """Write down where neurons stand, unless they were better by tolerance before their kick."""
    rows = state.rows
    worse = state.kicked & (state.value < solution.objective[rows] - tolerance)
    noted = noted & ~worse
    rows = rows[noted]
    solution.vectors[rows] = state.s[noted] * norm[rows]
    solution.objective[rows] = state.value[noted]
    solution.gradient_norm[rows] = steepness[noted]
    solution.converged[rows.cpu()] = done[noted].cpu()


def _kick(state: State, to_kick: Tensor, directions: Tensor, objective: Objective) -> None:
    """Move neurons by :data:`KICK` and forget their directions; one product with ``U``."""
    which = to_kick.nonzero().squeeze(1)
    s = state.s[which]
    aside = tangent(directions[which], s)
    aside = aside / aside.norm(dim=1, keepdim=True)
    state.s[which] = math.cos(KICK) * s + math.sin(KICK) * aside
    a, state.m2[which], state.m4[which] = centred_logits(state.s[which], state.sample.keep(which))
    state.a[which] = a
    cosine = (state.w[which] * state.s[which]).sum(1).double()
    state.value[which] = objective(state.m4[which] / state.m2[which] ** 2 - 3, cosine)
    state.gain[which] = math.inf
    state.kicked[which] = True
    assert state.d is not None
    state.d[which] = 0.0  # so that the next direction is the preconditioned gradient


def begin(
    w: Float[Tensor, "n_neurons d_model"],
    start: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, "n_neurons d_vocab"],
    objective: Objective,
) -> State:
    """The state before the first iteration; like :func:`solve`, but w has norm 1."""
    s = start / start.norm(dim=1, keepdim=True)
    sample = Sample.of(projection, token_weights, objective.moments)
    a, m2, m4 = centred_logits(s, sample)
    value = objective(m4 / m2**2 - 3, (w * s).sum(1).double())
    rows = torch.arange(len(w), device=w.device)
    gain = torch.full_like(value, math.inf)
    kicked = torch.zeros_like(value, dtype=torch.bool)
    return State(rows, w, s, a, m2, m4, value, gain, sample, kicked)


def gradient(state: State, objective: Objective) -> Float[Tensor, "n_active d_model"]:
    """Gradient of F along the sphere, at the current point; one product with ``U``."""
    g = slog_kurtosis_gradient(state.a, state.m2, state.m4, state.sample)
    g = g.mul_(objective.lambda_kurtosis).add_(state.w, alpha=objective.lambda_fidelity)
    return tangent(g, state.s)


def advance(
    state: State,
    g: Float[Tensor, "n_active d_model"],
    objective: Objective,
    precondition: Tensor | None,
) -> None:
    """One iteration: choose a direction, go to its geodesic's best point; one product with ``U``.

    Args:
        state: changed in place.
        g: :func:`gradient` of the state.
        objective: F.
        precondition: see :func:`preconditioner`.
    """
    s = state.s
    pg = g if precondition is None else tangent(g @ precondition, s)
    state.d = pg if state.d is None else conjugate(state, g, pg)
    state.g, state.pg = g, pg
    length = state.d.norm(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    direction = state.d / length

    b, moments = joint_moments(state.a, direction, state.sample)
    cosine_s = (state.w * s).sum(1).double()
    cosine_d = (state.w * direction).sum(1).double()
    t = line_search(moments, cosine_s, cosine_d, objective)
    state.m2, state.m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
    cos_t, sin_t = torch.cos(t), torch.sin(t)
    value = objective(state.m4 / state.m2**2 - 3, cos_t * cosine_s + sin_t * cosine_d)
    state.gain, state.value = value - state.value, value

    cos_t, sin_t = (x.to(s.dtype).unsqueeze(1) for x in (cos_t, sin_t))
    state.a.mul_(cos_t).addcmul_(b, sin_t)
    moved = cos_t * s + sin_t * direction
    state.s = moved / moved.norm(dim=1, keepdim=True)
    state.d = length * (cos_t * direction - sin_t * s)  # parallel transport of d along its geodesic


def tangent(v: Float[Tensor, "n d_model"], s: Float[Tensor, "n d_model"]) -> Tensor:
    """Project v onto the tangent space of the sphere at s, row by row."""
    return v - s * (v * s).sum(1, keepdim=True)


def conjugate(state: State, g: Tensor, pg: Tensor) -> Float[Tensor, "n_active d_model"]:
    """Polak-Ribiere+ direction; the preconditioned gradient where that would not ascend."""
    assert state.d is not None
    assert state.g is not None
    assert state.pg is not None
    change = (pg * (g - tangent(state.g, state.s))).sum(1)
    beta = change / (state.pg * state.g).sum(1).clamp_min(torch.finfo(g.dtype).tiny)
    d = pg + beta.clamp_min(0).unsqueeze(1) * tangent(state.d, state.s)
    ascends = (d * g).sum(1) > 0
    return torch.where(ascends.unsqueeze(1), d, pg)
