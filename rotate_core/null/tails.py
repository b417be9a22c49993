"""The tails of a neuron's channels over the whole vocabulary, for what asks token by token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.rotation.tails import sides, z_scores


def signed_z(
    channels: Channels, row: int
) -> tuple[Float[Tensor, "n_channels d_vocab"], Float[Tensor, "n_channels d_vocab"]]:
    """z-scores of one neuron's channels, up in their tails, and the side each token counts on.

    The side is the polarity, or the z-score's own sign where both sides are tails; the former is z
    times the latter. Tokens of weight 0, which no channel may have, are at minus infinity.
    """
    z = z_scores(channels.vectors[row], channels.vocabulary.projection).cpu()
    side = sides(z, channels.polarity[row])
    allowed = (channels.vocabulary.token_weights > 0).cpu()
    return (z * side).masked_fill(~allowed, -torch.inf), side


def tail_signs(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """The side that each token is in a channel's tail on; 0 for tokens that are not in it."""
    z, side = signed_z(channels, row)
    return torch.where(z > channels.settings.threshold, side, 0.0)


def heaviest(
    z: Float[Tensor, " d_vocab"], *, threshold: float, n: int | None
) -> Int[Tensor, " n_tokens"]:
    """Tokens of a tail, heaviest first.

    Args:
        z: a channel's row of :func:`signed_z`.
        threshold: that z has to be above.
        n: at most so many; None: all of them.
    """
    order = z.topk(int((z > threshold).sum())).indices
    return order if n is None else order[:n]
