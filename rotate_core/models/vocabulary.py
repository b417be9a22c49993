"""The vocabulary as a neuron sees it: the projection U, with a weight and a string a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Vocabulary:
    """The map from residual vectors to token scores (the paper's U), and what is known of tokens.

    A residual vector c has the logits `projection.T @ c`. The projection is used as it is: neither
    centred nor normalised.

    Raises:
        TypeError: the projection or the weights are not tensors, or a token is not a string.
        ValueError: a shape, a weight or a value of U is out of the stated range.

    Source: section 3 of the paper (projection) and its code (weights).
    """

    projection: Float[Tensor, "d_model d_vocab"]
    """U, (d_model, d_vocab), floating point and finite, on any device; a column is a token."""
    token_weights: Float[Tensor, " d_vocab"]
    """m, the weight in [0, 1] that each token starts with, not all 0; at least float32, on U's
    device. By default where the paper starts, `norm_token_weights(projection)`."""
    tokens: Sequence[str]
    """What each token decodes to on its own, leading space kept; by default "0", "1", ..."""
    name: str
    """What U is, for tables and figures, such as "unembedding"."""

    def __init__(
        self,
        projection: Float[Tensor, "d_model d_vocab"],
        token_weights: Float[Tensor, " d_vocab"] | None = None,
        tokens: Sequence[str] | None = None,
        name: str = "",
    ) -> None:
        _check_projection(projection)
        if token_weights is None:
            token_weights = norm_token_weights(projection)
        d_vocab = projection.shape[1]
        strings = tuple(map(str, range(d_vocab)) if tokens is None else tokens)
        if len(strings) != d_vocab:
            raise ValueError(
                f"tokens has {len(strings)} strings, U has {d_vocab} columns; give one each"
            )
        for i, token in enumerate(strings):
            if not isinstance(token, str):
                raise TypeError(f"tokens[{i}] is {token!r}, a {type(token).__name__}; give a str")
        if projection.requires_grad:  # of a model that may be trained
            projection = projection.detach()
        weights = _checked_weights(token_weights, projection).detach()
        object.__setattr__(self, "projection", projection)
        object.__setattr__(self, "token_weights", weights)
        object.__setattr__(self, "tokens", strings)
        object.__setattr__(self, "name", name)

    @property
    def d_model(self) -> int:
        """Width of the residual stream: rows of U."""
        return self.projection.shape[0]

    @property
    def d_vocab(self) -> int:
        """Number of tokens: columns of U."""
        return self.projection.shape[1]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Vocabulary:
        """The same vocabulary with U on another device or in another precision."""
        projection = self.projection.to(device=device, dtype=dtype)
        if projection is self.projection:
            return self
        return Vocabulary(projection, self.token_weights, self.tokens, self.name)

    def __repr__(self) -> str:
        weights = self.token_weights
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"Vocabulary({name}d_model={self.d_model}, d_vocab={self.d_vocab}, "
            f"{int((weights == 0).sum())} tokens excluded, "
            f"{int(((weights > 0) & (weights < 1)).sum())} with reduced weight)"
        )


def norm_token_weights(
    projection: Float[Tensor, "d_model d_vocab"],
    *,
    excluded: Int[Tensor, " n_excluded"] | None = None,
) -> Float[Tensor, " d_vocab"]:
    """Token weights to start from: 1, less for columns of U of large norm, 0 for excluded tokens.

    A norm is large above the 99th percentile of all, and then the weight is 1e-4; but a token that
    is excluded as well gets 0 (in the paper's code, 1e-4).

    Args:
        projection: U, (d_model, d_vocab).
        excluded: token numbers that get 0: special, unused or rare tokens.

    Returns:
        (d_vocab,), float32 (float64 for a float64 projection), on the projection's device.

    Raises:
        IndexError: an excluded token is not a column of U.

    Source: the paper's code.
    """
    dtype = torch.promote_types(projection.dtype, torch.float32)
    norms = torch.linalg.vector_norm(projection, dim=0, dtype=torch.float64)  # of any scale
    weights = torch.ones_like(norms, dtype=dtype)
    weights[norms > torch.quantile(norms, 0.99)] = 1e-4
    if excluded is not None:
        for token in excluded[(excluded < 0) | (excluded >= len(weights))].tolist():
            raise IndexError(f"excluded holds token {token}; U has tokens 0 to {len(weights) - 1}")
        weights[excluded.to(weights.device)] = 0
    return weights


def _check_projection(projection: Tensor) -> None:
    if not isinstance(projection, Tensor):
        raise TypeError(f"projection is a {type(projection).__name__}; give a torch.Tensor")
    if projection.ndim != 2 or 0 in projection.shape:
        raise ValueError(f"projection has shape {tuple(projection.shape)}; give (d_model, d_vocab)")
    check_precision(projection, "projection")
    # A column with inf or nan sums to inf or nan: this is far faster than a look at every value.
    # A sum can overflow, too, so the suspects are looked at.
    for token in torch.nonzero(~torch.isfinite(projection.sum(dim=0))).flatten().tolist():
        if not torch.isfinite(projection[:, token]).all():
            raise ValueError(f"column {token} of the projection holds inf or nan")


def check_precision(values: Tensor, what: str) -> None:
    """ValueError unless a tensor is dense, has data, and is of floating point, 16 bits or more."""
    if values.dtype not in PRECISIONS or values.layout != torch.strided or values.is_meta:
        raise ValueError(
            f"{what} has dtype {values.dtype}, layout {values.layout}, on {values.device}; give a "
            "dense tensor of float16, bfloat16, float32 or float64"
        )


def _checked_weights(weights: Tensor, projection: Tensor) -> Tensor:
    if not isinstance(weights, Tensor):
        raise TypeError(f"token_weights is a {type(weights).__name__}; give a torch.Tensor or None")
    if weights.shape != projection.shape[1:]:
        raise ValueError(
            f"token_weights has shape {tuple(weights.shape)}, U has {projection.shape[1]} columns; "
            f"give shape ({projection.shape[1]},)"
        )
    weights = weights.to(projection.device, torch.promote_types(weights.dtype, torch.float32))
    outside = torch.nonzero(~((weights >= 0) & (weights <= 1)))  # nan as well
    if len(outside):
        i = int(outside[0])
        raise ValueError(f"token_weights[{i}] is {float(weights[i])}; give weights in [0, 1]")
    if not weights.any():
        raise ValueError("token_weights is zero for every token; leave at least one token in")
    return weights
