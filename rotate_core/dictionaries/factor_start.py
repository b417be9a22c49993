"""Where a factorisation begins: tokens apart from each other, principal components, or chance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.dictionaries.hals import largest
from rotate_core.dictionaries.start import k_means_plus_plus

PCA_TOKENS, TOKENS = 4096, 25
"""Tokens that principal components are taken of; and those for each feature to be drawn from."""


def start(
    x: Float[Tensor, "n d"], n_features: int, n_kept: int, *, how: str, generator: torch.Generator
) -> Float[Tensor, "k d"]:
    """Features to begin with.

    Args:
        x: at least as many tokens as features.
        n_features: k.
        n_kept: s, entries that a feature keeps.
        how: one of :data:`.FACTOR_STARTS`. "tokens": drawn by k-means++ on their directions. "pca":
            the first k - 1 principal components around 0, and the one more feature that makes
            their coefficients nonnegative: with dense features as good as the k - 1 components.
            "random": normal.
        generator: on the CPU.

    Source: Gillis and Kumar (2015), SIAM J. Matrix Anal. Appl. 36:1404, for "pca".
    """
    if how == "random":
        drawn = torch.randn(n_features, x.shape[1], generator=generator, dtype=x.dtype)
        return largest(drawn.to(x.device), n_kept)
    if how == "tokens":
        order = torch.randperm(len(x), generator=generator)[: TOKENS * n_features]
        some = x[order.to(x.device)]
        unit = some / some.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        return largest(some[k_means_plus_plus(unit, n_features, generator)], n_kept)
    some = x[torch.randperm(len(x), generator=generator)[:PCA_TOKENS].to(x.device)]
    u, s, vt = torch.linalg.svd(some, full_matrices=False)
    n = min(n_features - 1, len(s))
    components, lowest = vt[:n], (u[:, :n] * s[:n]).min(0).values
    rest = (lowest.unsqueeze(0) @ components).expand(n_features - n, -1)
    return largest(torch.cat([components, rest]), n_kept)
