"""Deflation by subtraction as the authors' ablation does it: a share of the channel, searched for.

The paper deflates by masking. Its ablation subtracts the channel's logits from the neuron's; since
logits are linear in the vector, that is a change of the vector, and it stands here as one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.rotation.line_search import joint_moments
from rotate_core.rotation.moments import Sample, standardised_moments

GRID = 1000
"""Points of alpha in [0, 1]."""
GRID_THRESHOLD = 7.0
"""Tokens whose z-score in the channel is this or beyond should lose their logit."""
GRID_SKEWNESS = 0.05
"""Skewness beyond which only the heavier tail counts, here."""
GRID_WEIGHT = 5.0
"""Of those tokens' mean absolute logit, against the kurtosis of what is left."""
ROUNDING = 1e-5
"""Share of the variance that may be left by rounding alone."""


def subtract_by_grid(
    target: Float[Tensor, "n_neurons d_model"],
    vectors: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
) -> Float[Tensor, "n_neurons d_model"]:
    """Take each channel out of its neuron as the authors' ablation does, with a searched share.

    Returns ``target - alpha c``. With logits x of the target and y of the channel, alpha from a
    grid in [0, 1] minimises ``k(x - alpha y) + 5 mean |x - alpha y|``, the mean over the tokens
    furthest out in y (0 where there are none). Where the best alpha does not lower the kurtosis of
    x, nothing is taken out. All moments are unweighted; those of ``x - alpha y`` are polynomials in
    alpha, so that the grid costs no further product with U.

    Args:
        target: what is left of the neurons.
        vectors: their channels.
        projection: U, in the dtype of the vectors.

    Source: the public code of arXiv:2604.06005 (its subtraction ablation).
    """
    sample = Sample.uniform(projection)
    x, y = (v @ projection for v in (target, vectors))
    centred = x - x.mean(1, keepdim=True)
    _, moments = joint_moments(centred, vectors, sample)
    alpha = torch.linspace(0, 1, GRID, dtype=torch.float64, device=x.device).unsqueeze(0)
    e20, e11, e02, e40, e31, e22, e13, e04 = moments.unsqueeze(2).unbind(1)
    m2 = e20 - 2 * alpha * e11 + alpha**2 * e02
    m4 = e40 - 4 * alpha * e31 + 6 * alpha**2 * e22 - 4 * alpha**3 * e13 + alpha**4 * e04
    kurtosis = m4 / m2**2 - 3
    kurtosis[m2 < ROUNDING * e20] = math.inf  # nothing is left that could have a kurtosis

    _, variance, skewness, _ = standardised_moments(y)
    z = (y - y.mean(1, keepdim=True)) / variance.sqrt().unsqueeze(1)
    side = torch.where(skewness.abs() > GRID_SKEWNESS, skewness.sign(), 0).unsqueeze(1)
    extreme = torch.where(side == 0, z.abs(), z * side) >= GRID_THRESHOLD
    loss = kurtosis.clone()
    for i in extreme.any(1).nonzero().flatten().tolist():
        left = x[i, extreme[i]].unsqueeze(1) - alpha * y[i, extreme[i]].unsqueeze(1)
        loss[i] += GRID_WEIGHT * left.abs().mean(0)
    best = loss.argmin(1, keepdim=True)
    lower = kurtosis.gather(1, best) < kurtosis[:, :1]
    return target - (alpha[0, best] * lower).to(target.dtype) * vectors
