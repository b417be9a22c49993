"""The tails of a neuron's channels over the whole vocabulary, for what asks token by token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.rotation.tails import outward, sides, z_scores


def _z(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    projection = channels.vocabulary.projection
    return z_scores(channels.vectors[row], projection).cpu()


def signed_z(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """z-scores of one neuron's channels, up in their tails: z, -z, or |z| where both are tails.

    Tokens of weight 0, which no channel may have, are at minus infinity.
    """
    allowed = (channels.vocabulary.token_weights > 0).cpu()
    z = outward(_z(channels, row), channels.polarity[row])
    return z.masked_fill(~allowed, -torch.inf)


def token_signs(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """On which side each token counts: its channel's tail's, or its own where both are tails."""
    return sides(_z(channels, row), channels.polarity[row])


def tail_signs(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """:func:`token_signs` for the tokens that are in a channel's tail, 0 for the others."""
    inside = signed_z(channels, row) > channels.settings.threshold
    return torch.where(inside, token_signs(channels, row), 0.0)


def tails(channels: Channels) -> Bool[Tensor, "n_neurons n_channels d_vocab"]:
    """Which tokens are in each channel's tail: beyond the threshold on its heavy side, or both."""
    rows = range(channels.n_neurons)
    return torch.stack([signed_z(channels, i) > channels.settings.threshold for i in rows])


def heaviest(
    z: Float[Tensor, " d_vocab"], *, threshold: float, n: int | None
) -> Int[Tensor, " n_tokens"]:
    """Tokens of a tail, heaviest first.

    Args:
        z: a row of :func:`signed_z`.
        threshold: that z has to be above.
        n: at most so many; None: all of them.
    """
    order = z.topk(int((z > threshold).sum())).indices
    return order if n is None else order[:n]
