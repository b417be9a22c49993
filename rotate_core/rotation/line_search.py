"""The exact line search: F along a whole geodesic from eight joint moments.

On ``s(t) = cos t s + sin t d`` (d a unit tangent) the logits are ``cos t a + sin t b`` with
``a = U^T s`` and ``b = U^T d``: every central moment of theirs is a trigonometric polynomial in t
whose coefficients are the joint moments ``E[a^i b^j]``. One product ``U^T d`` therefore buys F
along the *whole* geodesic.

Source: RobustICA (Zarzoso and Comon, 2010, arXiv:1002.3684) maximises a kurtosis along a straight
line from the same joint moments, and finds the best step among a polynomial's roots. Ours walks on
the sphere, and F is no polynomial there: slog and the cosine with the neuron are added to it. So
the best angle is looked for on a grid. The moments cost what they cost there.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.rotation.moments import Objective, Sample

COEFFICIENTS = 8
"""Joint moments of a and b that a geodesic needs: three of order 2, five of order 4."""


def joint_moments(
    a: Float[Tensor, "n_neurons d_vocab"], d: Float[Tensor, "n_neurons d_model"], sample: Sample
) -> tuple[Float[Tensor, "n_neurons d_vocab"], Float[Tensor, "n_neurons 8"]]:
    """Logits b of the direction d, and E[a^i b^j] for (i, j) = 20, 11, 02, 40, 31, 22, 13, 04.

    Args:
        a: centred logits of the current point.
        d: unit tangents.
        sample: the tokens that the moments are taken over.

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
    m4 = c**4 * e40 + 4 * c**3 * s * e31 + 6 * c**2 * s**2 * e22 + 4 * c * s**3 * e13 + s**4 * e04
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
    """The angle in [0, pi/2] with the largest F on the geodesic: a grid, refined around its best.

    Args:
        moments: from :func:`joint_moments`.
        cosine_s: cosine of the neuron with the current point.
        cosine_d: cosine of the neuron with the direction.
        objective: F.
        n_points: of each grid.
        n_refinements: grids after the first, each between the neighbours of the last one's best.

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
