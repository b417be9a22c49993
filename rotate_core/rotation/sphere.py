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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
from .threads import each

KICK = 0.03  # radians that a neuron is moved by, where it stalls: so small that it keeps its hill
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
    d: Float[Tensor, "n_active d_model"]  # tangent search direction, carried along; 0 at first
    g: Float[Tensor, "n_active d_model"]  # gradient, here once `leave` has it, else at the point
    g_before: Float[Tensor, "n_active d_model"]  # before; the one and the preconditioned one
    pg_before: Float[Tensor, "n_active d_model"]  # that the last iteration went by
    kicked: Bool[Tensor, " n_active"]
    kept: Float[Tensor, "n_active d_model"]  # where it stood when it was kicked, F there and
    kept_value: Float[Tensor, " n_active"]  # the length of F's gradient
    kept_steepness: Float[Tensor, " n_active"]

    def __len__(self) -> int:
        return len(self.climb)

    def sample(self, rows: Tensor | None = None) -> Sample:
        """The tokens that the moments are taken over, of all climbs or of some."""
        weights, mean = self.weights, self.mean_vector
        if rows is not None:
            weights, mean = weights[rows], mean[rows]
        if self.moments == "weighted":
            return Sample(self.projection, weights, None, mean)
        return Sample(self.projection, uniform_p(self.projection), weights, mean)

    def add(self, other: State) -> None:
        """Take in the climbs of another batch."""
        for name in self._by_row():
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))

    def drop(self, gone: Bool[Tensor, " n_active"]) -> None:
        """Let climbs go: the last ones move into their places."""
        n_left = len(self) - int(gone.sum())
        holes = gone[:n_left].nonzero().squeeze(1)
        movers = (~gone[n_left:]).nonzero().squeeze(1) + n_left
        for name in self._by_row():
            value = getattr(self, name)
            value[holes] = value[movers]
            setattr(self, name, value[:n_left])

    def twice(self) -> None:
        """All climbs once more behind the last one, numbered on."""
        for name in self._by_row():
            setattr(self, name, torch.cat([getattr(self, name)] * 2))
        self.climb = torch.arange(len(self), device=self.climb.device)

    def _by_row(self) -> list[str]:
        return [name for name in vars(self) if name not in ("projection", "moments")]


def begin(
    w: Tensor, start: Tensor, projection: Tensor, token_weights: Tensor, settings: Settings
) -> State:
    """The batch before its first iteration; w of norm 1, start of any norm but 0."""
    s = start / start.norm(dim=1, keepdim=True)
    sample = Sample.of(projection, token_weights, settings.moments)
    a, m2, m4, value = evaluate(w, s, sample, settings)
    rows = torch.arange(len(w), device=w.device)
    zero, never = torch.zeros_like(w), torch.full_like(value, -math.inf)
    return State(
        projection=sample.projection, moments=settings.moments, climb=rows, w=w,
        weights=sample.p if sample.scale is None else sample.scale, mean_vector=sample.mean_vector,
        s=s, a=a, m2=m2, m4=m4, value=value, gain=-never, taken=torch.zeros_like(rows),
        d=zero, g=zero.clone(), g_before=zero.clone(), pg_before=zero.clone(), kicked=never > 0,
        kept=zero.clone(), kept_value=never, kept_steepness=never.clone(),
    )  # fmt: skip


def begin_at_tails(
    w: Tensor,
    projection: Tensor,
    token_weights: Tensor,
    settings: Settings,
    precondition: Tensor | None,
) -> tuple[State, Float[Tensor, " two_n_neurons"]]:
    """Two climbs of each neuron, towards either tail of its own logits; and F at w.

    The first iteration is done. It did not follow F's gradient, but the preconditioned sum of the
    columns of the tokens beyond :data:`TAIL` standard deviations on one side. First come all climbs
    towards positive tails, then those towards negative ones. Where a tail is empty, the climb is
    still at w.

    Source: ours. Climbs that follow the gradient from w itself end on lower hills.
    """
    state = begin(w, w, projection, token_weights, settings)
    state.twice()
    side = torch.ones_like(state.m2).to(w).unsqueeze(1)
    side[len(w) :] = -1
    least = TAIL * state.m2.sqrt().to(w).unsqueeze(1)
    sample = state.sample()

    def values(block: slice) -> Tensor:
        beyond = (state.a[:, block] * side > least).to(w)
        return beyond.mul_(sample.p_block(block)).mul_(side)

    towards = sample.adjoint(len(state), values)
    if precondition is not None:  # of the whole sum, not of its tangent part as for gradients
        towards = towards @ precondition
    advance(state, tangent(towards, state.s), settings, None)
    before = state.value - state.gain
    state.d = torch.zeros_like(state.d)  # the next iteration begins with F's own gradient,
    state.gain = torch.full_like(state.gain, math.inf)  # whatever this one has gained
    return state, before


def leave(
    state: State, settings: Settings, kicks: Callable[[Tensor], Tensor] | None
) -> dict[str, Tensor]:
    """Let those climbs go that are at their end, and kick those that stall.

    One has converged when an iteration gains less than ``tolerance`` AND the gradient is shorter
    than ``gradient_tolerance``: on a plateau the gain is small, too. It stalls when its gain is
    lost in rounding while its gradient is not small: then it is moved by :data:`KICK`, into a
    direction from ``kicks(climbs)``, and begins anew, once; what it had is kept where that is
    better by ``tolerance``.

    Returns:
        Of those that went: "climb", "vectors" of norm 1, and the others of `SOLVED` by name.
    """
    g = state.g = gradient(state, settings)
    steepness = g.norm(dim=1).double()
    rounding = min(settings.tolerance, torch.finfo(state.s.dtype).eps)
    done = (state.gain < settings.tolerance) & (steepness < settings.gradient_tolerance)
    stalled = (state.gain < rounding) & ~done
    to_kick = stalled & ~state.kicked if kicks is not None else torch.zeros_like(done)
    gone = done | (stalled & ~to_kick) | (state.taken >= settings.max_iter)
    lower = state.value < state.kept_value - settings.tolerance  # than before its kick
    left = {
        "climb": state.climb[gone],
        "vectors": torch.where(lower.unsqueeze(1), state.kept, state.s)[gone],
        "objective": torch.where(lower, state.kept_value, state.value)[gone],
        "gradient_norm": torch.where(lower, state.kept_steepness, steepness)[gone],
        "n_iter": state.taken[gone],
        "converged": (done & ~lower)[gone],
    }
    which = (to_kick & ~gone).nonzero().squeeze(1)
    if kicks is not None and len(which):
        state.kept_steepness[which] = steepness[which]
        g[which] = _kick(state, which, kicks(state.climb[which]), settings)
    if len(left["climb"]):
        state.drop(gone)
    return left


def evaluate(w: Tensor, s: Tensor, sample: Sample, settings: Settings) -> tuple[Tensor, ...]:
    """Centred logits of unit vectors s, their central moments m2 and m4, and F with unit w."""
    a, m2, m4 = centred_logits(s, sample)
    return a, m2, m4, settings.objective(m4 / m2**2 - 3, (w * s).sum(1).double())


def gradient(state: State, settings: Settings) -> Float[Tensor, "n_active d_model"]:
    """Gradient of F along the sphere, at the current points; one product with ``U``."""
    g = slog_kurtosis_gradient(state.a, state.m2, state.m4, state.sample())
    return _along_the_sphere(g, state.w, state.s, settings)


def _along_the_sphere(g: Tensor, w: Tensor, s: Tensor, settings: Settings) -> Tensor:
    """F's gradient, from that of the slog of the kurtosis."""
    return tangent(g.mul_(settings.lambda_kurtosis).add_(w, alpha=settings.lambda_fidelity), s)


def advance(state: State, g: Tensor, settings: Settings, precondition: Tensor | None) -> None:
    """One iteration, in place: choose a direction by the gradient g, go to its best point."""
    s = state.s
    pg = g if precondition is None else tangent(g @ precondition, s)
    state.d = _conjugate(state, g, pg)
    state.g_before, state.pg_before = g, pg
    length = state.d.norm(dim=1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    direction = state.d / length

    b, moments = joint_moments(state.a, direction, state.sample())
    cosine_s = (state.w * s).sum(1).double()
    cosine_d = (state.w * direction).sum(1).double()
    t = line_search(moments, cosine_s, cosine_d, settings)
    state.m2, state.m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
    cos_t, sin_t = torch.cos(t), torch.sin(t)
    value = settings.objective(state.m4 / state.m2**2 - 3, cos_t * cosine_s + sin_t * cosine_d)
    state.gain, state.value = value - state.value, value

    cos_t, sin_t = (x.to(s.dtype).unsqueeze(1) for x in (cos_t, sin_t))
    each(lambda block: state.a[:, block].mul_(cos_t).addcmul_(b[:, block], sin_t), lanes(state.a))
    moved = cos_t * s + sin_t * direction
    state.s = moved / moved.norm(dim=1, keepdim=True)
    state.d = length * (cos_t * direction - sin_t * s)  # parallel transport of d along its geodesic
    state.taken += 1


def _conjugate(state: State, g: Tensor, pg: Tensor) -> Float[Tensor, "n_active d_model"]:
    """Polak-Ribiere+ direction, transported by projection; pg where that would not ascend."""
    change = (pg * (g - tangent(state.g_before, state.s))).sum(1)
    beta = change / (state.pg_before * state.g_before).sum(1).clamp_min(torch.finfo(g.dtype).tiny)
    beta = beta.clamp(0, torch.finfo(g.dtype).max)  # 0 / 0 at first, where d is 0
    d = pg + beta.unsqueeze(1) * tangent(state.d, state.s)
    return torch.where(((d * g).sum(1) > 0).unsqueeze(1), d, pg)


def tangent(v: Float[Tensor, "n d_model"], s: Float[Tensor, "n d_model"]) -> Tensor:
    """Project v onto the tangent space of the sphere at s, row by row."""
    return v - s * (v * s).sum(1, keepdim=True)


def _kick(state: State, which: Tensor, directions: Tensor, settings: Settings) -> Tensor:
    """Move some climbs by :data:`KICK`, note where they stood; returns the gradient there."""
    w, sample = state.w[which], state.sample(which)
    aside = tangent(directions, state.s[which])
    aside = aside / aside.norm(dim=1, keepdim=True)
    s = math.cos(KICK) * state.s[which] + math.sin(KICK) * aside
    state.kicked[which], state.gain[which] = True, math.inf
    state.kept[which], state.kept_value[which] = state.s[which], state.value[which]
    a, m2, m4, value = evaluate(w, s, sample, settings)
    state.s[which], state.a[which], state.value[which] = s, a, value
    state.m2[which], state.m4[which] = m2, m4
    state.d[which] = 0.0  # so that the next direction is the preconditioned gradient
    return _along_the_sphere(slog_kurtosis_gradient(a, m2, m4, sample), w, s, settings)


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
    factor = sample.p if sample.scale is None else sample.p * sample.scale**2
    covariance = projection.new_zeros(len(projection), len(projection), dtype=torch.float64)
    for block in lanes(projection):
        columns = projection[:, block]
        covariance += (columns * factor[:, block]) @ columns.T
    mean = sample.mean_vector[0].double()
    covariance -= torch.outer(mean, mean)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean())
    return torch.linalg.inv(covariance).to(projection.dtype)
