"""Vectors and rotations that mean nothing: what channels are held against (ours)."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels

MOST = 1_000_000
"""Draws at most: they are made one by one."""


def own_seed(seed: int, *names: int | str) -> int:
    """A seed for one layer, neuron, split, ... alone, so that no two share their draws.

    Two draws from one seed are the same draw: of as many positions, say, the same ones. Their
    errors then add up where a mean over neurons should cancel them.

    Args:
        seed: of the run.
        names: of whom it is for; the same names give the same seed, whoever else draws.

    Returns:
        64 bits.
    """
    entropy = int.from_bytes(repr((seed, *names)).encode(), "big")
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def matched_vectors(
    layer_vectors: Float[Tensor, "n_mlp d_model"], n: int, *, seed: int = 0
) -> Float[Tensor, "n d_model"]:
    """Gaussian vectors with the mean and the covariance of a layer's neurons: no neuron, yet alike.

    Drawn as ``mean + (W - mean)^T g / sqrt(n_mlp - 1)``, g standard normal: exact without forming
    the covariance, and valid where the layer has fewer neurons than ``d_model``.

    Args:
        layer_vectors: all weight vectors of one layer and kind.
        n: how many.
        seed: vector i depends on the seed and i alone, not on n.
    """
    if layer_vectors.ndim != 2 or len(layer_vectors) < 2:
        raise ValueError(
            f"layer_vectors of shape {tuple(layer_vectors.shape)}: wanted (n_mlp > 1, d_model)"
        )
    _check_count(n)
    mean = layer_vectors.mean(0)
    root = (layer_vectors - mean) / (len(layer_vectors) - 1) ** 0.5
    draws = [torch.randn(len(root), generator=_generator(seed, i)) for i in range(n)]
    return mean + torch.stack(draws).to(root) @ root


def matched_mixtures(vectors: Float[Tensor, "n d"], *, seed: int = 0) -> Float[Tensor, "n d"]:
    """As many vectors of exactly the same mean and covariance: each a mixture of all of them.

    ``mean + Q (V - mean)``, Q a random rotation of the n - 1 differences between vectors. As
    Gaussian draws would be, but that n of these, where n is no larger than d, spread over fewer
    directions than V do.

    Args:
        vectors: V.
        seed: of Q.

    Raises:
        ValueError: fewer than two vectors.
    """
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"vectors of shape {tuple(vectors.shape)}: wanted (n > 1, d)")
    n, generator = len(vectors), torch.Generator().manual_seed(seed % 2**63)
    first, second = (_basis(torch.randn(n, n - 1, generator=generator)) for _ in range(2))
    mean = vectors.mean(0)
    return mean + first.to(vectors) @ (second.to(vectors).T @ (vectors - mean))


def _basis(z: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """A random orthonormal basis of what sums to 0, uniformly drawn, from Gaussian numbers."""
    q, r = torch.linalg.qr((z - z.mean(0)).double())
    return q * r.diagonal().sign()


def matched_rotations(
    channels: Channels, n: int, *, seed: int = 0
) -> Float[Tensor, "n n_neurons n_channels d_model"]:
    """Random directions at each channel's own cosine with its neuron, of the neuron's norm.

    ``rho * w/|w| + sqrt(1 - rho^2) * t``, t a random unit vector orthogonal to w.

    Args:
        channels: whose cosines and neurons to match.
        n: how many for each channel.
        seed: rotation i depends on the seed, i, the channels' layer and kind, and the shape; not
            on n.
    """
    _check_count(n)
    w = channels.weight_vectors.unsqueeze(1)
    norm = w.norm(dim=-1, keepdim=True)
    w_unit = w / norm
    rho = torch.cosine_similarity(channels.vectors, w, dim=-1).unsqueeze(-1)
    shape = channels.vectors.shape
    own = own_seed(seed, str(channels.layer), str(channels.kind))
    draws = [torch.randn(shape, generator=_generator(own, i)) for i in range(n)]
    tangent = torch.stack(draws).to(w)
    tangent -= w_unit * (tangent * w_unit).sum(-1, keepdim=True)
    tangent /= tangent.norm(dim=-1, keepdim=True)
    return norm * (rho * w_unit + (1 - rho**2).clamp_min(0).sqrt() * tangent)


def _check_count(n: Any) -> None:
    if not isinstance(n, Integral) or not 1 <= int(n) <= MOST:
        raise ValueError(f"n={n!r}: wanted at least 1, and {MOST} at most")


def _generator(seed: int, i: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + i * 0x85EBCA77 + 1) % 2**63)
