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

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .curvature import Curvature, factors
from .moments import (
    Sample,
    centred_logits,
    joint_moments,
    lanes,
    moments_along,
    slog_kurtosis_gradient,
    uniform_p,
)
from .settings import Settings
from .threads import each, fused

KICK = 0.03  # radians that a neuron is moved by, where it stalls: so small that it keeps its hill
BOLD = 5  # iterations by C alone, as if nothing pulled back to w: they find higher hills
TAIL = 2.0  # standard deviations beyond which a token is in the tail that a climb begins towards


@dataclass
class State:
    """A batch of climbs; one row for each that is still on its way, in any order."""

    projection: Float[Tensor, "d_model d_vocab"]
    moments: str  # how token weights enter, see `.moments`
    # All others have one row per climb.
    climb: Int[Tensor, " n_active"]  # the caller's number of it
    w: Float[Tensor, "n_active d_model"]  # unit weight vector
    weights: Float[Tensor, "n_active d_vocab"]  # p of the sample, its scale for scaled moments
    mean_vector: Float[Tensor, "n_active d_model"]  # of the sample
    s: Float[Tensor, "n_active d_model"]  # current point on the unit sphere
    a: Float[Tensor, "n_active d_vocab"]  # its centred logits
    m2: Float[Tensor, " n_active"]  # their second and fourth central moment, float64
    m4: Float[Tensor, " n_active"]
    value: Float[Tensor, " n_active"]  # F, float64
    gain: Float[Tensor, " n_active"]  # what the last iteration added to F
    taken: Int[Tensor, " n_active"]  # iterations
    converged: Bool[Tensor, " n_active"]
    d: Float[Tensor, "n_active d_model"]  # tangent search direction, carried along; 0 at first
    g: Float[Tensor, "n_active d_model"]  # gradient, here once `leave` has it, else at the point
    g_before: Float[Tensor, "n_active d_model"]  # before; the one and the preconditioned one
    pg_before: Float[Tensor, "n_active d_model"]  # that the last iteration went by

    def __len__(self) -> int:
        return len(self.climb)

    def sample(self) -> Sample:
        """The tokens that the moments are taken over."""
        if self.moments == "weighted":
            return Sample(self.projection, self.weights, None, self.mean_vector)
        return Sample(self.projection, uniform_p(self.weights), self.weights, self.mean_vector)

    def add(self, other: State) -> None:
        """Take in the climbs of another batch."""
        for name in self._by_row() if len(other) else ():
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))

    def take(self, rows: Bool[Tensor, " n_active"]) -> State:
        """Let these climbs go, as a batch of their own; the last ones move into their places."""
        gone = rows.nonzero().squeeze(1)
        taken = replace(self, **{name: getattr(self, name)[gone] for name in self._by_row()})
        n_left = len(self) - len(gone)
        holes = gone[gone < n_left]
        movers = (~rows[n_left:]).nonzero().squeeze(1) + n_left
        for name in self._by_row() if len(gone) else ():
            value = getattr(self, name)
            value[holes] = value[movers]
            setattr(self, name, value[:n_left])
        return taken

    def _by_row(self) -> list[str]:
        return [name for name in vars(self) if name not in ("projection", "moments")]


def begin(w: Tensor, start: Tensor, projection: Tensor, m: Tensor, settings: Settings) -> State:
    """The batch before its first iteration; w of norm 1, start of any norm but 0."""
    sample = Sample.of(projection, m, settings.moments)
    rows, zero = torch.arange(len(w), device=w.device), torch.zeros_like(w)
    value = torch.zeros_like(rows, dtype=torch.float64)
    state = State(
        projection=sample.projection, moments=settings.moments, climb=rows, w=w,
        weights=sample.p if sample.scale is None else sample.scale, mean_vector=sample.mean_vector,
        s=start, a=zero, m2=value, m4=value, value=value, gain=value, converged=rows < 0,
        taken=torch.zeros_like(rows), d=zero, g=zero, g_before=zero, pg_before=zero,
    )  # fmt: skip
    begin_anew(state, settings)
    return state


def begin_anew(state: State, settings: Settings) -> None:
    """Compute what follows from s, of any norm but 0; the way there does not count any more."""
    state.s = state.s / state.s.norm(dim=1, keepdim=True)
    state.a, state.m2, state.m4 = centred_logits(state.s, state.sample())
    cosine = (state.w * state.s).sum(1).double()
    state.value = settings.objective(state.m4 / state.m2**2 - 3, cosine)
    state.gain = torch.full_like(state.value, math.inf)
    state.d = torch.zeros_like(state.s)


def begin_at_tails(
    w: Tensor, projection: Tensor, m: Tensor, settings: Settings, curvature: Curvature | None
) -> tuple[State, Float[Tensor, " two_n_neurons"]]:
    """Two climbs of each neuron, towards either tail of its own logits; and F at w.

    The first iteration is done. It did not follow F's gradient, but the whitened sum of the
    columns of the tokens beyond :data:`TAIL` standard deviations on one side. First come all climbs
    towards positive tails, then those towards negative ones. Where a tail is empty, the climb is
    still at w.

    Source: ours. Climbs that follow the gradient from w itself end on lower hills.
    """
    state = begin(w, w, projection, m, settings)
    state.add(state)
    state.climb = torch.arange(len(state), device=w.device)
    side = torch.ones_like(state.m2).to(w).unsqueeze(1)
    side[len(w) :] = -1
    least = TAIL * state.m2.sqrt().to(w).unsqueeze(1)
    sample = state.sample()

    def values(block: slice) -> Tensor:
        beyond = (state.a[:, block] * side > least).to(w)
        return beyond.mul_(sample.p_block(block)).mul_(side)

    towards = sample.adjoint(len(state), values)
    if curvature is not None:  # of the whole sum, not of its tangent part as for gradients
        towards = curvature.solve(towards)
    advance(state, tangent(towards, state.s), settings, None)
    before = state.value - state.gain
    state.d = torch.zeros_like(state.d)  # the next iteration begins with F's own gradient,
    state.gain = torch.full_like(state.gain, math.inf)  # whatever this one has gained
    return state, before


def leave(state: State, settings: Settings) -> State:
    """Let those climbs go that are at their end; all have their gradient then.

    One has converged when an iteration gains less than ``tolerance`` AND the gradient is shorter
    than ``gradient_tolerance``: on a plateau the gain is small, too. It has stalled when its gain
    is lost in rounding while its gradient is not small.
    """
    state.g = gradient(state, settings)
    flat = state.g.norm(dim=1) < settings.gradient_tolerance
    state.converged = flat & (state.gain < settings.tolerance)
    stalled = state.gain < min(settings.tolerance, torch.finfo(state.s.dtype).eps)
    return state.take(state.converged | stalled | (state.taken >= settings.max_iter))


def gradient(state: State, settings: Settings) -> Float[Tensor, "n_active d_model"]:
    """Gradient of F along the sphere, at the current points; one product with ``U``."""
    g = slog_kurtosis_gradient(state.a, state.m2, state.m4, state.sample())
    g.mul_(settings.lambda_kurtosis).add_(state.w, alpha=settings.lambda_fidelity)
    return tangent(g, state.s)


def advance(state: State, g: Tensor, settings: Settings, curvature: Curvature | None) -> None:
    """One iteration, in place: choose a direction by the gradient g, go to its best point."""
    s = state.s
    cosine_s = (state.w * s).sum(1).double()
    pg = g
    if curvature is not None:
        bulk, pull = factors(state.m2, state.m4, cosine_s, settings)
        bold = (state.taken < BOLD).unsqueeze(1)
        bulk, pull = torch.where(bold, 1.0, bulk).to(g), torch.where(bold, 0.0, pull).to(g)
        pg = tangent(curvature.solve(g, bulk, pull), s)
    state.d = _conjugate(state, g, pg)
    state.g_before, state.pg_before = g, pg
    length = state.d.norm(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    direction = state.d / length

    b, moments = joint_moments(state.a, direction, state.sample())
    cosine_d = (state.w * direction).sum(1).double()
    t = line_search(moments, cosine_s, cosine_d, settings)
    state.m2, state.m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
    cos_t, sin_t = torch.cos(t), torch.sin(t)
    value = settings.objective(state.m4 / state.m2**2 - 3, cos_t * cosine_s + sin_t * cosine_d)
    state.gain, state.value = value - state.value, value

    cos_t, sin_t = (x.to(s.dtype).unsqueeze(1) for x in (cos_t, sin_t))
    each(lambda lane: _turn(state.a[:, lane], b[:, lane], cos_t, sin_t), lanes(state.a))
    moved = cos_t * s + sin_t * direction
    state.s = moved / moved.norm(dim=1, keepdim=True)
    state.d = length * (cos_t * direction - sin_t * s)  # parallel transport of d along its geodesic
    state.taken += 1


@fused
def _turn(a: Tensor, b: Tensor, cos_t: Tensor, sin_t: Tensor) -> None:
    """From the logits a to those further along the geodesic, in place."""
    a.mul_(cos_t).addcmul_(b, sin_t)


def _conjugate(state: State, g: Tensor, pg: Tensor) -> Float[Tensor, "n_active d_model"]:
    """Polak-Ribiere+ direction, transported by projection; pg where that would not ascend."""
    change = (pg * (g - tangent(state.g_before, state.s))).sum(1)
    beta = change / (state.pg_before * state.g_before).sum(1).clamp_min(torch.finfo(g.dtype).tiny)
    beta = beta.clamp(0, torch.finfo(g.dtype).max)  # 0 / 0 at first, where d is 0
    d = pg + beta.unsqueeze(1) * tangent(state.d, state.s)
    return torch.where(((d * g).sum(1) > 0).unsqueeze(1), d, pg)


def kick(state: State, directions: Float[Tensor, "n_active d_model"], settings: Settings) -> None:
    """Move climbs by :data:`KICK` towards the directions, to begin anew there."""
    aside = torch.nn.functional.normalize(tangent(directions, state.s))
    state.s = math.cos(KICK) * state.s + math.sin(KICK) * aside
    begin_anew(state, settings)


def tangent(v: Float[Tensor, "n d_model"], s: Float[Tensor, "n d_model"]) -> Tensor:
    """Project v onto the tangent space of the sphere at s, row by row."""
    return v - s * (v * s).sum(1, keepdim=True)


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
