"""Which tokens are a channel's: its tail, on its own side of the vocabulary."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels


def signed_z(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """z-scores of one neuron's channels, up in their tails: z, -z, or |z| where both are tails.

    Centred and scaled over the whole vocabulary. Tokens of weight 0, which no channel may have, are
    at minus infinity.
    """
    return _in_tails(channels, row, _z(channels, row))


def _z(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """z-scores of one neuron's channels over the whole vocabulary."""
    projection = channels.vocabulary.projection
    z = channels.vectors[row].to(projection) @ projection
    return ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)).cpu()


def _in_tails(
    channels: Channels, row: int, z: Float[Tensor, "n_channels d_vocab"]
) -> Float[Tensor, "n_channels d_vocab"]:
    tail = channels.polarity[row].unsqueeze(1).to(z)
    allowed = (channels.vocabulary.token_weights > 0).cpu()
    return torch.where(tail == 0, z.abs(), z * tail).masked_fill(~allowed, -torch.inf)


def token_signs(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """On which side each token counts: its channel's tail's, or its own where both are tails."""
    return _signs(channels, row, _z(channels, row))


def _signs(
    channels: Channels, row: int, z: Float[Tensor, "n_channels d_vocab"]
) -> Float[Tensor, "n_channels d_vocab"]:
    tail = channels.polarity[row].unsqueeze(1).to(z)
    return torch.where(tail == 0, z.sign(), tail)


def tail_signs(channels: Channels, row: int) -> Float[Tensor, "n_channels d_vocab"]:
    """:func:`token_signs` for the tokens that are in a channel's tail, 0 for the others."""
    z = _z(channels, row)
    inside = _in_tails(channels, row, z) > channels.settings.threshold
    return torch.where(inside, _signs(channels, row, z), 0.0)


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
