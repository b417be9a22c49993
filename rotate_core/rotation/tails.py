"""The tail of a channel: the tokens beyond the threshold on its heavy side, or on both.

Deflation masks it, support is measured on it, an atlas stores it. z-scores are of the channel's
unweighted projection ``U^T c`` over all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sides(
    z: Float[Tensor, "n width"], polarity: Int[Tensor, " n"] | Float[Tensor, " n"]
) -> Float[Tensor, "n width"]:
    """The side that each token would be in the tail on: +1 or -1; 0 for a z-score of 0 on both.

    Args:
        z: z-scores of some tokens (columns) in some channels (rows).
        polarity: of each channel: +1 or -1 for a tail on that side, 0 for both
            (:attr:`rotate_core.Channels.polarity`).
    """
    polarity = polarity.to(z).unsqueeze(1)
    return torch.where(polarity == 0, z.sign(), polarity)


def reach(
    z: Float[Tensor, "n width"], polarity: Int[Tensor, " n"] | Float[Tensor, " n"]
) -> Float[Tensor, "n width"]:
    """How far out each token is on the side that counts; in the tail if beyond the threshold.

    Takes the arguments of :func:`sides`.
    """
    return z * sides(z, polarity)


@dataclass(frozen=True, eq=False)
class Tails:
    """The whole tail of each channel, tokens of weight 0 left out; ragged, on the CPU.

    Channel ``j`` of neuron ``i`` is number ``i * n_channels + j`` and has the entries
    ``offsets[number]`` to ``offsets[number + 1]``.
    """

    offsets: Int[Tensor, " n_tails_and_1"]
    """int64, from 0 to the number of entries."""
    ids: Int[Tensor, " n_entries"]
    """Token numbers, int32, ascending within a tail."""
    z: Float[Tensor, " n_entries"]
    """The tokens' z-scores in the channel's projection, with their sign; in U's dtype."""

    @staticmethod
    def collect(n: int, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tails:
        """Join the tails of n channels out of blocks of the vocabulary.

        Args:
            n: how many channels.
            parts: for each block, in order of the vocabulary, three tensors of one length: channel
                numbers, token numbers (ascending within a channel) and z-scores.
        """
        number, ids, z = (torch.cat(columns).cpu() for columns in zip(*parts, strict=True))
        order = number.argsort(stable=True)
        lengths = number.bincount(minlength=n)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        return Tails(offsets, ids[order].int(), z[order])
