"""Where a mixture's fit begins: k-means, and the principal components of each cluster."""

from __future__ import annotations

import math
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries import em
from rotate_core.dictionaries.checks import floor_of
from rotate_core.dictionaries.mixture import Mixture, mean_log_prob
from rotate_core.dictionaries.settings import RegionSettings

CANDIDATES, ROUNDS = 4, 10
"""Tokens tried for each centroid of k-means++; rounds of Lloyd's algorithm."""


def best_start(
    x: Float[Tensor, "n d"],
    unseen: Float[Tensor, "m d"],
    n_regions: int,
    settings: RegionSettings,
    generator: torch.Generator,
    memory: float | None,
) -> Mixture:
    """The best of several short runs of EM, by held-out likelihood.

    Source: Biernacki, Celeux and Govaert (2003), "em-EM"; the choice by held-out tokens is ours.
    """
    s, floor = settings, floor_of(x, settings)
    best, best_value = None, -math.inf
    for _ in range(s.n_starts):
        n = min(len(x), max(s.start_tokens * n_regions, s.start_tokens))
        some = x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]
        mixture = start(
            some, n_regions, rank=s.rank, noise=s.noise, floor=floor, how=s.start,
            generator=generator,
        )  # fmt: skip
        if s.n_starts == 1:
            return mixture
        passes = em.fit(some, mixture, noise=s.noise, floor=floor, top=s.top, memory=memory)
        mixture, value, _ = next(islice(passes, s.start_iter, None))
        if len(unseen):
            value = mean_log_prob(unseen, mixture, memory)
        if value > best_value or best is None:
            best, best_value = mixture, value
    assert best is not None
    return best


def start(
    x: Float[Tensor, "n d"],
    n_regions: int,
    *,
    rank: int,
    noise: str,
    floor: float,
    how: str,
    generator: torch.Generator,
) -> Mixture:
    """A mixture around the centroids of k-means, in float64.

    Args:
        x: tokens, more than regions; centred.
        n_regions: K.
        rank: R.
        noise: one of :data:`.NOISES`.
        floor: least noise.
        how: one of :data:`.STARTS`.
        generator: on the CPU.
    """
    centroids, member = k_means(x, n_regions, generator)
    d = x.shape[1]
    loadings = torch.randn(n_regions, d, rank, generator=generator, dtype=torch.float64).to(
        x.device
    )
    loadings /= loadings.norm(dim=1, keepdim=True)
    if how == "random":
        left = torch.ones(d, dtype=torch.float64, device=x.device)
        weights = torch.full((n_regions,), 1 / n_regions, dtype=torch.float64, device=x.device)
    else:
        counts = member.bincount(minlength=n_regions)
        pooled = torch.zeros(d, dtype=torch.float64, device=x.device)
        lengths = torch.zeros(n_regions, rank, dtype=torch.float64, device=x.device)
        for k in (counts > 1).nonzero().flatten().tolist():
            rows = x[member == k].double()
            rows = rows - rows.mean(0)
            u, s, vt = torch.linalg.svd(rows, full_matrices=False)
            some = min(rank, len(s) - 1)  # of n tokens around their mean, n - 1 directions
            loadings[k, :, :some] = vt[:some].T
            lengths[k, :some] = s[:some].square() / len(rows)
            pooled += (u[:, some:] * s[some:] @ vt[some:]).square().sum(0)
        left = (pooled / len(x)).clamp_min(floor)
        # what a direction has beyond noise; a little in each, for EM cannot leave 0
        beyond = (lengths - left.mean()).clamp_min(0.1 * left.mean())
        loadings *= beyond.sqrt().unsqueeze(1)
        weights = counts.double() / len(x)
    if noise == "isotropic":
        left = left.mean().expand(d)
    if noise == "own":
        left = left.expand(n_regions, d)
    return Mixture(weights, centroids.double(), loadings, left)


def k_means(
    x: Float[Tensor, "n d"], k: int, generator: torch.Generator
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Centroids and members by greedy k-means++ and Lloyd's algorithm; no cluster is empty.

    Ours, as scipy's "++" compares each new centroid with all before it: k^2 where k is enough.
    """
    centroids, square = x[k_means_plus_plus(x, k, generator)].clone(), x.square().sum(1)
    for _ in range(ROUNDS):
        nearest, member = _distances(x, square, centroids).min(1)
        counts = member.bincount(minlength=k)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):  # the tokens farthest from theirs become clusters of one
            far = nearest.topk(len(empty)).indices
            member[far] = empty
            counts = member.bincount(minlength=k)
        totals = torch.zeros_like(centroids).index_add_(0, member, x)
        centroids = totals / counts.clamp_min(1).unsqueeze(1)
    return centroids, member


def k_means_plus_plus(
    x: Float[Tensor, "n d"], k: int, generator: torch.Generator
) -> Int[Tensor, " k"]:
    """Rows that lie apart: each drawn with its squared distance from those before.

    Source: Arthur and Vassilvitskii (2007), with several candidates as in their section 5.
    """
    square = x.square().sum(1)
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    nearest = _distances(x, square, x[torch.tensor(chosen)]).squeeze(1)
    for _ in range(k - 1):
        reached = nearest.double().cumsum(0)
        draws = torch.rand(CANDIDATES, generator=generator, dtype=torch.float64)
        candidates = torch.searchsorted(reached, draws.to(x.device) * reached[-1])
        candidates = candidates.clamp_max(len(x) - 1)
        closer = torch.minimum(nearest.unsqueeze(1), _distances(x, square, x[candidates]))
        best = int(closer.sum(0).argmin())
        chosen.append(int(candidates[best]))
        nearest = closer[:, best]
    return torch.tensor(chosen).to(x.device)


def _distances(
    x: Float[Tensor, "n d"], square: Float[Tensor, " n"], rows: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """Squared, between tokens of known squared norms and some rows."""
    return (square.unsqueeze(1) - x @ (2 * rows.T) + rows.square().sum(1)).clamp_min(0)
