"""The paper's solver: joint least squares, hard threshold, multiplicative update."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.dictionaries.hals import Sweep, largest

SMALL = 1e-6


def fit(x: Float[Tensor, "n d"], y: Float[Tensor, "k n"], n_kept: int) -> Iterator[Sweep]:
    """Iterations without end. The loss may rise, as thresholding after joint least squares does.

    Args:
        x: activations, one token a row.
        y: coefficients to begin with; a zero among them stays one, so they are raised to 1e-6.
        n_kept: s, entries that a feature keeps.

    Source: Ding, Li and Jordan (2010) for the update; the order of steps and the constant 1e-6 are
    those of arXiv:2506.10920, by notes on its released code.
    """
    total = float(x.double().square().sum())
    y = y.clamp_min(SMALL)
    eye = torch.eye(len(y), dtype=y.dtype, device=y.device)
    while True:
        z = largest(torch.linalg.solve(y @ y.T + SMALL * eye, y @ x), n_kept)
        norm = y.norm(dim=1, keepdim=True)
        y, z = y / norm, z * norm
        p, q = z @ x.T, z @ z.T
        up = p.clamp_min(0) + (-q).clamp_min(0) @ y
        down = (-p).clamp_min(0) + q.clamp_min(0) @ y + SMALL
        y = y * (up / down).sqrt()
        gained = 2 * (p * y).sum(dtype=torch.float64)
        gained -= ((y @ y.T) * q).sum(dtype=torch.float64)
        yield Sweep(z, y, total - float(gained), 0)
