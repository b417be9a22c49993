"""The paper's solver: a reflection ``H(u) w``, learned by AdamW (section 3.2).

The loss is ``-lambda_k slog(k(m * U^T H(u) w)) + lambda_f (1 - cos(w, H(u) w))``, one u per neuron.
Everything follows the paper step for step, in float32 where the authors' product with U is in fp16.
Gradient and update are written out instead of taped (a test holds them equal to autograd's), so
that a neuron can leave the batch: unless ``joint``, each is treated as though it were alone.
A step costs two products with ``U`` and about 8 elementwise passes over ``d_vocab`` per neuron.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .moments import Sample, centred_logits, slog_kurtosis_gradient
from .settings import Settings
from .sphere import begin, gradient

WARM_UP = 100  # step s < 100 uses s / 100 of the learning rate
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
SCORE_EVERY = 100  # steps between two candidates
STOP_FROM, STOP_WINDOW, STOP_DEVIATION = 2000, 100, 1e-4
"""Converged: from step 2,000 on, the last 100 losses have a standard deviation below this."""


def reflect(
    u: Float[Tensor, "n_neurons d_model"], w: Float[Tensor, "n_neurons d_model"]
) -> Float[Tensor, "n_neurons d_model"]:
    """``H(u) w = w - 2 u (u . w) / |u|^2``, row by row (paper, section 3.2)."""
    return w - u * (2 * (u * w).sum(1, keepdim=True) / (u * u).sum(1, keepdim=True))


def reflect_gradient(u: Tensor, w: Tensor, g: Tensor) -> Float[Tensor, "n_neurons d_model"]:
    """Gradient with respect to u of a function whose gradient at ``H(u) w`` is g."""
    uu = (u * u).sum(1, keepdim=True)
    uw = (u * w).sum(1, keepdim=True)
    ug = (u * g).sum(1, keepdim=True)
    return -2 / uu * (ug * w + uw * g - (2 * uw * ug / uu) * u)


def solve(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, "n_neurons d_vocab"],
    settings: Settings,
    *,
    start: Float[Tensor, "n_neurons n_reflections d_model"],
) -> dict[str, Any]:
    """One channel of each neuron, as the paper finds it.

    At steps 0, 100, 200, ... the candidate ``H(u_r) ... H(u_1) w`` (r is 1, but for the paper's
    ablation) is scored by the absolute kurtosis of its unweighted projection; the best is the
    channel.

    ``settings.joint`` minimises the mean of the batch's losses, as the authors' code does: a neuron
    that has converged goes on moving and being scored until all have.

    Args:
        w: weight vectors, none of norm 0.
        projection: U.
        token_weights: m, one row per neuron.
        settings: objective, steps, learning rate.
        start: u, drawn from a standard normal in the paper.

    Returns:
        By neuron "vectors", each of its neuron's norm, "objective" F and "gradient_norm" of F along
        the unit sphere there (float64), "n_iter" and "converged", whether the stopping rule was
        met; and "history", a list of F at each candidate, NaN once a neuron has left.

    Source: arXiv:2604.06005, section 3.2, and the method page of the authors' repository.
    """
    n_neurons, max_iter, joint = len(w), settings.max_iter, settings.joint
    share = 1 / n_neurons if joint else 1.0  # of a neuron's loss in the one that is minimised
    cosine_scale = settings.lambda_fidelity / (w * w).sum(1, keepdim=True)
    vectors, history = w.clone(), []
    n_iter, converged = torch.full((n_neurons,), max_iter), torch.zeros(n_neurons).bool()
    sample = Sample.of(projection, token_weights, settings.moments)
    unweighted = Sample.uniform(projection)
    rows = torch.arange(n_neurons, device=w.device)
    active_w, u = w, start.clone()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    best_score = torch.full((n_neurons,), -math.inf, device=w.device, dtype=torch.float64)
    losses: deque[Tensor] = deque(maxlen=STOP_WINDOW)

    for step in range(max_iter):
        points = [active_w]  # w, H(u_1) w, H(u_2) H(u_1) w, ...
        for reflection in u.unbind(1):
            points.append(reflect(reflection, points[-1]))
        candidate = points[-1]
        c, m2, m4 = centred_logits(candidate, sample)
        cosine = (active_w * candidate).sum(1) / (active_w * active_w).sum(1)
        value = settings.objective(m4 / m2**2 - 3, cosine.double())
        losses.append(settings.lambda_fidelity - value)
        if step % SCORE_EVERY == 0:
            full = torch.full_like(best_score, math.nan)
            full[rows] = value
            history.append(full)

        g = slog_kurtosis_gradient(c, m2, m4, sample).mul_(-settings.lambda_kurtosis)
        g = g - cosine_scale[rows] * active_w  # of the loss, with respect to the candidate
        u_gradient = torch.empty_like(u)
        for j in reversed(range(u.shape[1])):
            u_gradient[:, j] = reflect_gradient(u[:, j], points[j], g)
            g = reflect(u[:, j], g)  # a reflection is its own transpose
        _adamw_step(u, u_gradient * share, first, second, step, settings.learning_rate)

        if step + 1 >= STOP_FROM and len(losses) == STOP_WINDOW:
            done = torch.stack(tuple(losses)).std(0, correction=0) < STOP_DEVIATION
            converged[rows[done].cpu()] = True
            if joint:
                if converged.all():
                    n_iter.fill_(step + 1)
                    break
            elif done.any():
                n_iter[rows[done].cpu()] = step + 1
                keep = (~done).nonzero().squeeze(1)
                active = (rows, active_w, candidate, u, first, second)
                rows, active_w, candidate, u, first, second = (x[keep] for x in active)
                sample = sample.keep(keep)
                losses = deque((x[keep] for x in losses), maxlen=STOP_WINDOW)
                if not len(rows):
                    break

        if step % SCORE_EVERY == 0:  # not of the step that a neuron stops at
            _, m2, m4 = centred_logits(candidate, unweighted)
            score = (m4 / m2**2 - 3).abs()
            better = score > best_score[rows]
            best_score[rows[better]] = score[better]
            vectors[rows[better]] = candidate[better]

    state = begin(w / w.norm(dim=1, keepdim=True), vectors, projection, token_weights, settings)
    steepness = gradient(state, settings).norm(dim=1).double()
    return {
        "vectors": vectors, "objective": state.value, "gradient_norm": steepness,
        "n_iter": n_iter, "converged": converged, "history": history,
    }  # fmt: skip


def _adamw_step(
    u: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, learning_rate: float
) -> None:
    """One AdamW update in place (Loshchilov and Hutter, 2019), with the paper's warm-up."""
    rate = learning_rate * min(1.0, step / WARM_UP)
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    denominator = (second / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPSILON)
    u.mul_(1 - rate * WEIGHT_DECAY)
    u.addcdiv_(first, denominator, value=-rate / (1 - BETAS[0] ** (step + 1)))
