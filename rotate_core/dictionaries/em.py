"""EM for a mixture of factor analyzers, from K d (R + 2) sums, whatever the number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries.mixture import Mixture, Readers, chunks, read, readers

ALIVE = 1e-6
"""Tokens' worth of weight below which a region's parameters are left as they are."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over tokens, in float64: all that the parameters need. In them z~ is [z; 1]."""

    n: Float[Tensor, ""]
    """Tokens."""
    log_likelihood: Float[Tensor, ""]
    """Under the mixture that weighed the tokens."""
    x: Float[Tensor, "K d R+1"]
    """sum r x z~^T; its last column is sum r x."""
    z: Float[Tensor, "K R+1 R+1"]
    """sum r E[z~ z~^T]; its last entry is sum r."""
    square: Float[Tensor, " d"] | Float[Tensor, "K d"]
    """sum x^2, or sum r x^2 where each region has noise of its own."""

    @property
    def counts(self) -> Float[Tensor, " K"]:
        """Tokens' worth of each region: sum r."""
        return self.z[:, -1, -1]

    def blended(self, other: Statistics, rate: float) -> Statistics:
        """``(1 - rate)`` of these sums and ``rate`` of others."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Statistics(**{name: a + rate * (b - a) for name, a, b in pairs})

    def per_token(self) -> Statistics:
        """Means instead of sums: then n is 1."""
        return Statistics(**{f.name: getattr(self, f.name) / self.n for f in fields(self)})


def expect(
    x: Float[Tensor, "n d"],
    mixture: Mixture,
    *,
    top: int | None = None,
    memory: float | None = None,
) -> tuple[Statistics, Float[Tensor, " n"]]:
    """The E step: sums over all tokens, and each token's log likelihood.

    Products are in x's precision, sums over chunks in float64.

    Args:
        x: centred, so that squares do not cancel; on any device.
        mixture: in the same coordinates.
        top: regions a token is weighed between, those of the nearest centroids; None: all.
        memory: bytes that a chunk's work may take.
    """
    k, d, rank = mixture.shape
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    own = mixture.noise.ndim == 2
    sums = _Sums(
        x=zero.new_zeros(k, d, rank + 1),
        z=zero.new_zeros(k, rank + 1, rank + 1),
        square=zero.new_zeros((k, d) if own else (d,)),
    )
    made = readers(mixture, x)
    log_likelihood = []
    for rows in chunks(x, mixture, memory):
        chunk = x[rows]
        if top is None or top >= k:
            log_likelihood.append(_weigh_all(chunk, made, sums))
        else:
            log_likelihood.append(_weigh_nearest(chunk, made, sums, mixture, top))
        if not own:
            sums.square.add_(chunk.square().sum(0))
    sums.z[:, :rank, :rank] += sums.z[:, -1:, -1:] * made.posterior
    each = torch.cat(log_likelihood)
    return Statistics(zero + len(x), each.double().sum(), *sums), each


class _Sums(NamedTuple):
    """The sums of :class:`Statistics`, in the making."""

    x: Tensor
    z: Tensor
    square: Tensor


def _weigh_all(x: Tensor, made: Readers, sums: _Sums) -> Float[Tensor, " n"]:
    """Add a chunk's sums, each token weighed between all regions; its log likelihoods."""
    joint, z = read(x, made)
    each = joint.logsumexp(1)
    r = (joint - each.unsqueeze(1)).exp()
    z = torch.cat([z, torch.ones_like(z[..., :1])], 2)
    weighed = z * r.unsqueeze(2)
    sums.x.add_((x.T @ weighed.flatten(1)).unflatten(1, z.shape[1:]).permute(1, 0, 2))
    sums.z.add_(weighed.permute(1, 2, 0) @ z.permute(1, 0, 2))
    if sums.square.ndim == 2:
        sums.square.add_(r.T @ x.square())
    return each


def _weigh_nearest(
    x: Tensor, made: Readers, sums: _Sums, mixture: Mixture, top: int
) -> Float[Tensor, " n"]:
    """The same with each token weighed between the regions of the ``top`` nearest centroids.

    The products with loadings, which are most of the work, are then made of K/top as few pairs.
    """
    nearest = near(x, mixture, top)
    order = nearest.flatten().argsort(stable=True)
    counts = nearest.flatten().bincount(minlength=len(made.constant))
    pairs = [
        (k, part // top, part % top)
        for k, part in enumerate(order.split(counts.tolist()))
        if len(part)
    ]
    joint = x.new_empty(len(x), top)
    z = x.new_empty(len(x), top, made.offset.shape[1] + 1)
    for k, rows, columns in pairs:
        one, z_one = read(x[rows], made.of(k))
        joint[rows, columns] = one[:, 0]
        z[rows, columns] = torch.nn.functional.pad(z_one[:, 0], (0, 1), value=1.0)
    each = joint.logsumexp(1)
    weighed = z * (joint - each.unsqueeze(1)).exp().unsqueeze(2)
    for k, rows, columns in pairs:
        part = weighed[rows, columns]
        sums.x[k] += x[rows].T @ part
        sums.z[k] += part.T @ z[rows, columns]
        if sums.square.ndim == 2:
            sums.square[k] += part[:, -1] @ x[rows].square()
    return each


def near(x: Float[Tensor, "n d"], mixture: Mixture, top: int) -> Int[Tensor, "n top"]:
    """The regions of the nearest centroids, where noise is the unit of length."""
    m = mixture.to(x)
    precision = m.noise.reciprocal()
    centre = m.centroids * precision
    distance = (centre * m.centroids).sum(1) - 2 * x @ centre.T
    if precision.ndim == 2:
        distance = distance + x.square() @ precision.T
    return distance.topk(top, largest=False).indices


def maximise(sums: Statistics, before: Mixture, *, noise: str, floor: float) -> Mixture:
    """The M step, in closed form: ``[W mu] = S_xz S_zz^-1``, and the noise that is left.

    Then the posterior means and covariances of z, over a region's tokens, are moved into mu and W,
    as if z had a free mean and covariance: the likelihood cannot fall by that, and EM takes a
    fraction of the steps.

    Args:
        sums: of the E step.
        before: a region without tokens keeps what it had.
        noise: one of :data:`.NOISES`.
        floor: least variance; the likelihood cannot fall by it, as it has one maximum in each.

    Source: Liu, Rubin and Wu (1998), Biometrika 85:755, parameter-expanded EM.
    """
    counts = sums.counts
    alive = counts > ALIVE * sums.n
    x, z = sums.x[alive], sums.z[alive]
    solved = torch.linalg.solve(z, x.mT).mT
    explained = (solved * x).sum(2)
    if noise == "own":
        left = before.noise.double().clone()
        left[alive] = (sums.square[alive] - explained) / counts[alive].unsqueeze(1)
    else:
        left = (sums.square - explained.sum(0)) / sums.n
    if noise == "isotropic":
        left = left.mean().expand(left.shape)
    centroids, loadings = before.centroids.double().clone(), before.loadings.double().clone()
    mean = z[:, :-1, -1:] / counts[alive].view(-1, 1, 1)
    covariance = z[:, :-1, :-1] / counts[alive].view(-1, 1, 1) - mean @ mean.mT
    loadings[alive] = solved[..., :-1] @ torch.linalg.cholesky(covariance)
    centroids[alive] = x[..., -1] / counts[alive].unsqueeze(1)
    weights = counts.clamp_min(torch.finfo(torch.float32).tiny)
    return Mixture(weights / weights.sum(), centroids, loadings, left.clamp_min(floor))


def reseed(
    mixture: Mixture, dead: Int[Tensor, " n_dead"], tokens: Float[Tensor, "n_dead d"], share: float
) -> Mixture:
    """Dead regions put at tokens that no region explains, small and round.

    Args:
        mixture: of which some regions hold no token.
        dead: these regions.
        tokens: one for each.
        share: of all tokens, that each of them begins with.
    """
    _, d, rank = mixture.shape
    weights, centroids, loadings = (
        part.clone() for part in (mixture.weights, mixture.centroids, mixture.loadings)
    )
    noise = mixture.noise.mean(0) if mixture.noise.ndim == 2 else mixture.noise
    centroids[dead] = tokens.to(centroids)
    directions = torch.eye(rank, d).T.to(loadings)  # of length 0 they would stay at 0
    loadings[dead] = directions * noise.mean().sqrt()
    weights[dead] = share
    made = replace(mixture, centroids=centroids, loadings=loadings, weights=weights / weights.sum())
    if mixture.noise.ndim == 2:
        own = mixture.noise.clone()
        own[dead] = noise
        made = replace(made, noise=own)
    return made


def fit(
    x: Float[Tensor, "n d"],
    mixture: Mixture,
    *,
    noise: str,
    floor: float,
    top: int | None = None,
    memory: float | None = None,
) -> Iterator[tuple[Mixture, float, int]]:
    """EM, pass by pass without end; arguments as of :func:`expect` and :func:`maximise`.

    Yields:
        The mixture, its own mean log likelihood a token, and how many of the next one's regions
        held less than one token and were put elsewhere.
    """
    while True:
        sums, each = expect(x, mixture, top=top, memory=memory)
        dead = (sums.counts < 1).nonzero().flatten()[: len(x)]
        yield mixture, float(sums.log_likelihood / sums.n), len(dead)
        mixture = maximise(sums, mixture, noise=noise, floor=floor)
        if len(dead):
            worst = each.topk(len(dead), largest=False).indices
            mixture = reseed(mixture, dead, x[worst], 1 / len(x))
