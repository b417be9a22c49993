"""A mixture of factor analyzers: its parameters, and densities and posteriors under it.

    x | k ~ N(mu_k, W_k W_k^T + Psi_k)        z | x, k ~ N(M_k^-1 v_k, M_k^-1)
    v_k = W_k^T Psi_k^-1 (x - mu_k)           M_k = I + W_k^T Psi_k^-1 W_k

No (d, d) matrix is formed: by Woodbury's identity the Cholesky factor of M_k, (R, R), is enough,

    log det = log det Psi_k + log det M_k     (x - mu)^T C^-1 (x - mu) = |x - mu|^2_Psi - |L^-1 v|^2

and all that depends on x is one product with (d, K (R + 1)) numbers.

Source: Ghahramani and Hinton (1996), CRG-TR-96-1; for language models arXiv:2602.02464.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

MEMORY = 2**28
"""Default bound in bytes on what a chunk of tokens takes beside the tokens themselves."""
MOST_ON_CPU = 2048
"""Tokens at a time that a CPU's caches are good for."""
ARRAYS = 6
"""Arrays of K (R + 1) values that a token takes at the peak."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Parameters of K regions in d dimensions, of rank R."""

    weights: Float[Tensor, " K"]
    """Shares of the tokens, pi; they sum to 1."""
    centroids: Float[Tensor, "K d"]
    loadings: Float[Tensor, "K d R"]
    noise: Float[Tensor, " d"] | Float[Tensor, "K d"]
    """The diagonal of Psi, of all regions or of each."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, d, R)."""
        k, d, rank = self.loadings.shape
        return k, d, rank

    def to(self, like: Tensor) -> Mixture:
        """On a tensor's device, in its precision."""
        names = ("weights", "centroids", "loadings", "noise")
        return Mixture(**{name: getattr(self, name).to(like) for name in names})

    def shifted(self, by: Float[Tensor, " d"]) -> Mixture:
        """The same regions, somewhere else."""
        return replace(self, centroids=self.centroids + by)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Of the whole mixture."""
        return self.weights @ self.centroids


class Readers(NamedTuple):
    """What a mixture's densities are read with; made once for many tokens."""

    products: Float[Tensor, "d K*(R+1)"]
    """``Psi^-1 W`` and ``Psi^-1 mu`` of each region."""
    precision: Float[Tensor, "d K"]
    """1 / Psi, one column where it is shared."""
    offset: Float[Tensor, "K R"]
    """``W^T Psi^-1 mu``."""
    root: Float[Tensor, "K R R"]
    """``L^-1``, with L the Cholesky factor of M."""
    constant: Float[Tensor, " K"]
    """Of the log density and the weight, all that does not depend on x."""

    @property
    def posterior(self) -> Float[Tensor, "K R R"]:
        """The covariance of z, ``M^-1``."""
        return self.root.mT @ self.root

    def of(self, region: int) -> Readers:
        """Of one region alone."""
        k, rank = self.offset.shape
        one = slice(region, region + 1)
        return Readers(
            self.products.unflatten(1, (k, rank + 1))[:, region],
            self.precision[:, one] if self.precision.shape[1] > 1 else self.precision,
            *(part[one] for part in (self.offset, self.root, self.constant)),
        )


def readers(mixture: Mixture, like: Tensor) -> Readers:
    """What densities are read with: in the mixture's own precision, given in another tensor's."""
    m, (k, d, rank) = mixture, mixture.shape
    precision = m.noise.reciprocal().expand(k, d)
    read = m.loadings * precision.unsqueeze(2)
    identity = torch.eye(rank).to(read)
    lower = torch.linalg.cholesky(identity + m.loadings.mT @ read)
    root = torch.linalg.solve_triangular(lower, identity.expand(k, -1, -1), upper=False)
    centre = m.centroids * precision
    constant = m.weights.log() - 0.5 * (
        d * math.log(2 * math.pi)
        - precision.log().sum(1)
        + 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
        + (centre * m.centroids).sum(1)
    )
    products = torch.cat([read, centre.unsqueeze(2)], 2)
    parts = (
        products.permute(1, 0, 2).flatten(1),
        (precision if m.noise.ndim == 2 else precision[:1]).T,
        torch.einsum("kdr,kd->kr", read, m.centroids),
        root,
        constant,
    )
    return Readers(*(part.to(like) for part in parts))


def read(
    x: Float[Tensor, "n d"], readers: Readers
) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K R"]]:
    """log(pi_k N(x; k)) of each region, and the posterior mean of z within each.

    Squares are expanded, so x and the centroids want to be centred where precision matters.
    """
    k, rank = readers.offset.shape
    products = (x @ readers.products).view(len(x), k, rank + 1)
    v = products[..., :rank] - readers.offset
    whitened = torch.einsum("nkr,ksr->nks", v, readers.root)
    z = torch.einsum("nks,ksr->nkr", whitened, readers.root)
    square = x.square() @ readers.precision
    return readers.constant - 0.5 * (square - (v * z).sum(2)) + products[..., rank], z


def chunks(x: Float[Tensor, "n d"], mixture: Mixture, memory: float | None) -> Iterator[slice]:
    """Tokens at a time, so that the work stays within ``memory``.

    Raises:
        ValueError: it does not do for one token.
    """
    k, d, rank = mixture.shape
    each = x.element_size() * (ARRAYS * k * (rank + 1) + 2 * d)
    size = int((MEMORY if memory is None else memory) // each)
    if size < 1:
        raise ValueError(f"memory={memory} bytes: wanted at least {each}, for one token")
    if x.device.type == "cpu":
        size = min(size, MOST_ON_CPU)
    yield from (slice(i, min(i + size, len(x))) for i in range(0, len(x), size))


def mean_log_prob(x: Float[Tensor, "n d"], mixture: Mixture, memory: float | None) -> float:
    """Mean log likelihood a token; NaN of none."""
    made = readers(mixture, x)
    rows = chunks(x, mixture, memory)
    total = sum(float(read(x[part], made)[0].logsumexp(1).double().sum()) for part in rows)
    return total / len(x) if len(x) else math.nan


def orthogonal(mixture: Mixture) -> Mixture:
    """The same densities with each region's loadings orthogonal, the largest first.

    Only the span and ``W W^T`` are identified; of each direction the largest entry is positive.
    """
    u, s, _ = torch.linalg.svd(mixture.loadings, full_matrices=False)
    largest = u.gather(1, u.abs().argmax(1, keepdim=True))
    return replace(mixture, loadings=u * (s.unsqueeze(1) * largest.sign()))
