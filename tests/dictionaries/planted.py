"""Activations of regions that are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rotate_core.dictionaries.mixture import Mixture


class Planted(NamedTuple):
    x: Tensor
    member: Tensor
    mixture: Mixture


def planted(
    seed: int = 0, *, k: int = 6, d: int = 20, rank: int = 3, n: int = 1500, apart: float = 2.0
) -> Planted:
    """Regions of rank 3 with centroids so many standard deviations from the mean a dimension."""
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    centroids = torch.randn(k, d, **like) * apart
    loadings = torch.randn(k, d, rank, **like)
    noise = 0.25 + 0.5 * torch.rand(d, **like)
    member = torch.randint(k, (n,), generator=g)
    z = torch.randn(n, rank, **like)
    x = centroids[member] + torch.einsum("tdr,tr->td", loadings[member], z)
    x += noise.sqrt() * torch.randn(n, d, **like)
    weights = torch.full((k,), 1 / k, dtype=torch.float64)
    return Planted(x, member, Mixture(weights, centroids, loadings, noise))


def matched_subspaces(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared cosine of the angles between (K, d, R) subspaces, each with its best partner."""
    from scipy.optimize import linear_sum_assignment

    p, q = (torch.linalg.qr(part)[0] for part in (a, b))
    cosines = torch.linalg.svdvals(torch.einsum("kdr,lds->klrs", p, q)).square().mean(-1)
    rows, columns = linear_sum_assignment(-cosines.numpy())
    return cosines[rows, columns]


class PlantedFactors(NamedTuple):
    x: Tensor
    vectors: Tensor
    coefficients: Tensor


def planted_factors(
    seed: int = 0,
    *,
    k: int = 20,
    d: int = 400,
    s: int = 8,
    n: int = 2000,
    active: float = 3.0,
    noise: float = 0.3,
    dtype: torch.dtype = torch.float32,
) -> PlantedFactors:
    """Sums of features of s neurons each, some of them active in a token, and noise.

    Noise is so many times the mean norm of the sums, over all neurons together.
    """
    g = torch.Generator().manual_seed(seed)
    z = torch.zeros(k, d, dtype=dtype)
    for row in z:
        row[torch.randperm(d, generator=g)[:s]] = torch.randn(s, generator=g, dtype=dtype)
    z /= z.norm(dim=1, keepdim=True)
    y = torch.rand(n, k, generator=g, dtype=dtype) + 0.5
    y *= torch.rand(n, k, generator=g) < active / k
    x = y @ z
    x += noise * x.norm(dim=1).mean() / d**0.5 * torch.randn(n, d, generator=g, dtype=dtype)
    return PlantedFactors(x, z, y)
