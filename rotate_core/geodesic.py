"""Conjugate gradients on the sphere with an exact line search: the default solver (ours).

A reflection of ``w`` reaches every point of the sphere of radius ``|w|``, so the paper's problem is
to maximise F over unit vectors s. On the geodesic ``s(t) = cos t s + sin t d`` (d a unit tangent)
the logits are ``cos t a + sin t b`` with ``a = U^T s`` and ``b = U^T d``: every moment of theirs is a
trigonometric polynomial in t whose coefficients are the joint moments ``E[a^i b^j]``. One product
``U^T d`` therefore buys F along the *whole* geodesic, and the best point of it, not a step along it.
There is no learning rate and no schedule.

Cost of an iteration, per neuron: two products with ``U`` (``4 d_model d_vocab`` flops, U read twice
for the whole batch) and about 16 elementwise passes over ``d_vocab`` values, most of them in cache;
``a``, ``b`` and the token weights (12 bytes a token in float32) come from memory.
"""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.kurtosis import (
    Objective,
    Sample,
    Solution,
    centred_logits,
    slog_kurtosis_gradient,
)

COEFFICIENTS = 8
"""Joint moments of a and b that a geodesic needs: three of order 2, five of order 4."""


def preconditioner(
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"],
    *,
    moments: str = "weighted",
    ridge: float = 1e-3,
) -> Float[Tensor, "d_model d_model"]:
    """Inverse covariance of the vocabulary, ``(U diag(p) U^T - mu mu^T + ridge * mean eigenvalue)^-1``.

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


def joint_moments(
    a: Float[Tensor, "n_neurons d_vocab"], d: Float[Tensor, "n_neurons d_model"], sample: Sample
) -> tuple[Float[Tensor, "n_neurons d_vocab"], Float[Tensor, "n_neurons 8"]]:
    """Logits b of the direction d, and E[a^i b^j] for (i, j) = 20, 11, 02, 40, 31, 22, 13, 04.

    Args:
        a: centred logits of the current point.
        d: unit tangents.

    Returns:
        b, centred, and the moments in float64.
    """
    n_neurons = len(a)
    b = torch.empty_like(a)
    moments = a.new_zeros(n_neurons, COEFFICIENTS, dtype=torch.float64)
    for block in sample.blocks(n_neurons):
        a_part, b_part, p = a[:, block], b[:, block], sample.p_block(block)
        sample.project(d, block, b_part)
        aa, ab, bb = a_part * a_part, a_part * b_part, b_part * b_part
        paa, pbb = aa * p, bb * p
        sums = (
            paa.sum(1),
            torch.mul(ab, p).sum(1),
            pbb.sum(1),
            torch.mul(paa, aa, out=aa).sum(1),
            torch.mul(paa, ab).sum(1),
            torch.mul(paa, bb).sum(1),
            torch.mul(pbb, ab).sum(1),
            torch.mul(pbb, bb, out=bb).sum(1),
        )
        moments += torch.stack(sums, 1)
    return b, moments


def moments_along(
    moments: Float[Tensor, "n_neurons 8"], t: Float[Tensor, "n_neurons n_points"]
) -> tuple[Tensor, Tensor]:
    """Second and fourth central moment of ``cos t a + sin t b``: polynomials in cos t and sin t."""
    e20, e11, e02, e40, e31, e22, e13, e04 = (column.unsqueeze(1) for column in moments.unbind(1))
    c, s = torch.cos(t), torch.sin(t)
    m2 = c * c * e20 + 2 * c * s * e11 + s * s * e02
    m4 = (
        c**4 * e40
        + 4 * c**3 * s * e31
        + 6 * c**2 * s**2 * e22
        + 4 * c * s**3 * e13
        + s**4 * e04
    )
    return m2, m4


def line_search(
    moments: Float[Tensor, "n_neurons 8"],
    cosine_s: Float[Tensor, " n_neurons"],
    cosine_d: Float[Tensor, " n_neurons"],
    objective: Objective,
    *,
    n_points: int = 64,
    n_refinements: int = 2,
) -> Tensor:
    """The angle in [0, pi/2] at which F is largest along the geodesic: a grid, refined around its best.

    Args:
        moments: from :func:`joint_moments`.
        cosine_s, cosine_d: cosine of the neuron with the current point and with the direction.

    Returns:
        t (n_neurons,) float64, radians; exact to ``pi/2 / 63 * (2/63)^2`` = 2.5e-5 by default.
    """
    unit = torch.linspace(0, 1, n_points, dtype=torch.float64, device=moments.device)
    low = torch.zeros_like(cosine_s).unsqueeze(1)
    high = torch.full_like(low, math.pi / 2)
    for _ in range(1 + n_refinements):
        t = low + (high - low) * unit
        m2, m4 = moments_along(moments, t)
        cosine = torch.cos(t) * cosine_s.unsqueeze(1) + torch.sin(t) * cosine_d.unsqueeze(1)
        value = objective(m4 / m2**2 - 3, cosine)
        best = value.argmax(1, keepdim=True)
        low = t.gather(1, (best - 1).clamp_min(0))
        high = t.gather(1, (best + 1).clamp_max(n_points - 1))
    return t.gather(1, best).squeeze(1)


def solve(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, "n_neurons d_vocab"],
    objective: Objective,
    *,
    start: Float[Tensor, "n_neurons d_model"] | None = None,
    precondition: Float[Tensor, "d_model d_model"] | None = None,
    tolerance: float = 1e-5,
    max_iter: int = 200,
) -> Solution:
    """One channel of each neuron: maximise F over the sphere by preconditioned conjugate gradients.

    Polak-Ribiere+ directions, transported by projection onto the tangent space, restarted where
    they do not ascend. A neuron whose F gained less than ``tolerance`` leaves the batch.

    Args:
        w: weight vectors, none of norm 0.
        projection: U.
        token_weights: m, a row a neuron.
        start: where to begin (any norm but 0); None begins at w.
        precondition: symmetric positive definite, see :func:`preconditioner`; None for none.
        tolerance: smallest gain of F worth another iteration.
        max_iter: iterations after which a neuron is returned as it stands, not converged.

    Returns:
        The channels; ``history`` starts with F at the start.

    Source: ours; Absil, Mahony and Sepulchre (2008), section 8.3, for conjugate gradients on a
    manifold. The line search is not in the literature that we know.
    """
    n_neurons = len(w)
    norm = w.norm(dim=1)
    w_unit = w / norm.unsqueeze(1)
    s = w_unit if start is None else start / start.norm(dim=1, keepdim=True)
    sample = Sample.of(projection, token_weights, objective.moments)
    a, m2, m4 = centred_logits(s, sample)
    value = objective(m4 / m2**2 - 3, (w_unit * s).sum(1).double())

    solution = Solution(
        vectors=w.clone(),
        objective=value.clone(),
        gradient_norm=torch.zeros_like(value),
        n_iter=torch.zeros(n_neurons, dtype=torch.int64),
        converged=torch.zeros(n_neurons, dtype=torch.bool),
        history=[value.clone()],
    )
    rows = torch.arange(n_neurons, device=w.device)
    gain = torch.full_like(value, math.inf)
    d = g_old = pg_old = None

    for n_iter in range(max_iter + 1):
        g = slog_kurtosis_gradient(a, m2, m4, sample).mul_(objective.lambda_kurtosis)
        g = _tangent(g.add_(w_unit, alpha=objective.lambda_fidelity), s)

        done = gain < tolerance
        leaving = done if n_iter < max_iter else torch.ones_like(done)
        if leaving.any():
            out = rows[leaving]
            solution.vectors[out] = s[leaving] * norm[out].unsqueeze(1)
            solution.objective[out] = value[leaving]
            solution.gradient_norm[out] = g[leaving].norm(dim=1).double()
            solution.n_iter[out.cpu()] = n_iter
            solution.converged[out.cpu()] = done[leaving].cpu()
            keep = (~leaving).nonzero().squeeze(1)
            if not len(keep):
                break
            rows, s, w_unit, a, g, value = (x[keep] for x in (rows, s, w_unit, a, g, value))
            sample = sample.keep(keep)
            if d is not None:
                d, g_old, pg_old = d[keep], g_old[keep], pg_old[keep]

        pg = g if precondition is None else _tangent(g @ precondition, s)
        d = pg if d is None else _conjugate(pg, g, _tangent(d, s), g_old, pg_old, s)
        g_old, pg_old = g, pg
        direction = d / d.norm(dim=1, keepdim=True).clamp_min(torch.finfo(d.dtype).tiny)

        b, moments = joint_moments(a, direction, sample)
        cosine_s = (w_unit * s).sum(1).double()
        cosine_d = (w_unit * direction).sum(1).double()
        t = line_search(moments, cosine_s, cosine_d, objective)
        cos_t, sin_t = torch.cos(t), torch.sin(t)
        m2, m4 = (m.squeeze(1) for m in moments_along(moments, t.unsqueeze(1)))
        new_value = objective(m4 / m2**2 - 3, cos_t * cosine_s + sin_t * cosine_d)
        gain, value = new_value - value, new_value

        cos_t, sin_t = (x.to(w.dtype).unsqueeze(1) for x in (cos_t, sin_t))
        a.mul_(cos_t).addcmul_(b, sin_t)
        s_new = s * cos_t + direction * sin_t
        d = d * cos_t - s * (sin_t * d.norm(dim=1, keepdim=True))
        s = s_new / s_new.norm(dim=1, keepdim=True)
        full = torch.full_like(solution.objective, math.nan)
        full[rows] = value
        solution.history.append(full)

    return solution


def _tangent(v: Tensor, s: Tensor) -> Tensor:
    """Project onto the tangent space of the sphere at s, row by row."""
    return v - s * (v * s).sum(1, keepdim=True)


def _conjugate(
    pg: Tensor, g: Tensor, d: Tensor, g_old: Tensor, pg_old: Tensor, s: Tensor
) -> Tensor:
    """Polak-Ribiere+ direction; the preconditioned gradient where that would not ascend."""
    beta = (pg * (g - _tangent(g_old, s))).sum(1) / (pg_old * g_old).sum(1).clamp_min(1e-30)
    conjugate = pg + beta.clamp_min(0).unsqueeze(1) * d
    ascends = (conjugate * g).sum(1) > 0
    return torch.where(ascends.unsqueeze(1), conjugate, pg)
