"""The paper's solver: a reflection ``H(u) w``, learned by AdamW (section 3.2).

``H(u) w = w - 2 u (u . w) / |u|^2`` keeps the norm of w and leaves u unconstrained. The loss is
``-lambda_k slog(k(m * U^T H(u) w)) + lambda_f (1 - cos(w, H(u) w))``, one u per neuron. Everything
follows the paper step for step; on a GPU the authors' product with U is in fp16, here it is in
float32. The gradient is written out instead of taped (a test holds it equal to autograd's), and
the AdamW update too, so that a neuron can leave the batch: unless ``joint`` is asked for, each
neuron is treated as though it were alone.

Cost of a step, per neuron: two products with ``U`` and about 8 elementwise passes over ``d_vocab``.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.rotation.moments import (
    Objective,
    Sample,
    Solution,
    centred_logits,
    slog_kurtosis_gradient,
)
from rotate_core.rotation.sphere import tangent

LEARNING_RATE = 8e-4
WARM_UP = 100
"""Step s < 100 uses s / 100 of the learning rate."""
BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01
SCORE_EVERY = 100
"""Steps between two candidates."""
STOP_FROM = 2000
STOP_WINDOW = 100
STOP_DEVIATION = 1e-4
"""Converged: from step 2,000 on, the last 100 losses have a (population) standard deviation below
this."""


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
    objective: Objective,
    *,
    start: Float[Tensor, "n_neurons n_reflections d_model"],
    max_iter: int = 10_000,
    learning_rate: float = LEARNING_RATE,
    joint: bool = False,
) -> Solution:
    """One channel of each neuron, as the paper finds it.

    At steps 0, 100, 200, ... the candidate ``H(u) w`` is scored by the absolute kurtosis of its
    unweighted projection, and the best candidate of all is the channel. More than one reflection
    (the paper's ablation) is their product, ``H(u_r) ... H(u_1) w``.

    Args:
        w: weight vectors, none of norm 0.
        projection: U.
        token_weights: m, one row per neuron.
        objective: F; the loss is ``lambda_fidelity - F``.
        start: u, drawn from a standard normal in the paper.
        max_iter: steps at most (paper: 10,000, so that the last candidate is that of step 9,900).
        learning_rate: after the warm-up.
        joint: minimise the mean of the batch's losses, as the authors' code does. A neuron that has
            converged goes on moving and being scored until all have, and AdamW's epsilon is added
            to the root of a gradient that is divided by the size of the batch: what comes out
            depends on the batch. False (ours) takes each neuron's loss by itself.

    Returns:
        The best candidates. ``objective`` and ``gradient_norm`` are taken at them, with the same
        objective that the geodesic solver maximises. ``n_iter`` counts the steps that a neuron
        took part in, and ``converged`` says whether it ever met the stopping rule.

    Source: arXiv:2604.06005, section 3.2, and the method page of the authors' repository.
    """
    n_neurons = len(w)
    share = 1 / n_neurons if joint else 1.0  # of a neuron's loss in the one that is minimised
    cosine_scale = objective.lambda_fidelity / (w * w).sum(1, keepdim=True)
    solution = Solution(
        vectors=w.clone(),
        objective=torch.zeros(n_neurons, dtype=torch.float64, device=w.device),
        gradient_norm=torch.zeros(n_neurons, dtype=torch.float64, device=w.device),
        n_iter=torch.full((n_neurons,), max_iter, dtype=torch.int64),
        converged=torch.zeros(n_neurons, dtype=torch.bool),
        history=[],
    )
    sample = whole = Sample.of(projection, token_weights, objective.moments)
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
        value = objective(m4 / m2**2 - 3, cosine.double())
        losses.append(objective.lambda_fidelity - value)
        if step % SCORE_EVERY == 0:
            full = torch.full_like(solution.objective, math.nan)
            full[rows] = value
            solution.history.append(full)

        g = slog_kurtosis_gradient(c, m2, m4, sample).mul_(-objective.lambda_kurtosis)
        g = g - cosine_scale[rows] * active_w  # of the loss, with respect to the candidate
        gradient = torch.empty_like(u)
        for j in reversed(range(u.shape[1])):
            gradient[:, j] = reflect_gradient(u[:, j], points[j], g)
            g = reflect(u[:, j], g)  # a reflection is its own transpose
        _adamw_step(u, gradient * share, first, second, step, learning_rate)

        if step + 1 >= STOP_FROM and len(losses) == STOP_WINDOW:
            done = torch.stack(tuple(losses)).std(0, correction=0) < STOP_DEVIATION
            if joint:
                solution.converged[done.cpu()] = True
                if solution.converged.all():
                    solution.n_iter.fill_(step + 1)
                    break
            elif done.any():
                solution.converged[rows[done].cpu()] = True
                solution.n_iter[rows[done].cpu()] = step + 1
                keep = (~done).nonzero().squeeze(1)
                rows, active_w, candidate, u, first, second = (
                    x[keep] for x in (rows, active_w, candidate, u, first, second)
                )
                sample = sample.keep(keep)
                losses = deque((x[keep] for x in losses), maxlen=STOP_WINDOW)
                if not len(rows):
                    break

        if step % SCORE_EVERY == 0:  # not of the step that a neuron stops at
            _, m2, m4 = centred_logits(candidate, unweighted)
            score = (m4 / m2**2 - 3).abs()
            better = score > best_score[rows]
            best_score[rows[better]] = score[better]
            solution.vectors[rows[better]] = candidate[better]

    _score(w, solution, whole, objective)
    return solution


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


def _score(w: Tensor, solution: Solution, sample: Sample, objective: Objective) -> None:
    """Objective and gradient norm along the unit sphere, at the channels that were kept."""
    w_unit = w / w.norm(dim=1, keepdim=True)
    s = solution.vectors / solution.vectors.norm(dim=1, keepdim=True)
    c, m2, m4 = centred_logits(s, sample)
    solution.objective.copy_(objective(m4 / m2**2 - 3, (w_unit * s).sum(1).double()))
    g = slog_kurtosis_gradient(c, m2, m4, sample).mul_(objective.lambda_kurtosis)
    g.add_(w_unit, alpha=objective.lambda_fidelity)
    solution.gradient_norm.copy_(tangent(g, s).norm(dim=1).double())
