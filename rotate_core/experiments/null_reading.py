"""Does text agree with a channel? What a neuron reads where its channel's tokens are (chapter 4).

A channel of gate or in says which tokens its vector w looks for. So where these tokens are, or come
next, ``w . x`` should be far out. A matched vector can be asked the same, with the same x: that is
the null, and it is needed, because w and its channels share a vocabulary with the model whatever w
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.tails import tail_signs

if TYPE_CHECKING:
    import pandas as pd


def reading_at_tails(
    channels: Channels,
    x: Float[Tensor, "n_positions d_model"],
    token: Int[Tensor, " n_positions"],
    *,
    least: int = 10,
) -> pd.DataFrame:
    """Mean z-score of ``w . x`` at the positions whose token is in a channel's tail.

    The z-score is over all positions given, and signed by the side of the tail that the token is
    on: above 0, the neuron reads what its channel says.

    Args:
        channels: of what reads x: gate or in vectors of one layer, real or matched.
        x: the MLP's input of that layer.
        token: at each position the token to look up: the current one, or the next.
        least: positions that a channel needs; below it z is NaN.

    Returns:
        One row per channel: neuron, channel, n_positions, z.
    """
    import pandas as pd

    reading = x @ channels.weight_vectors.to(x).T  # (n_positions, n_neurons)
    reading = (reading - reading.mean(0)) / reading.std(0, correction=0)
    rows = []
    for i, neuron in enumerate(channels.indices):
        side = tail_signs(channels, i)[:, token]  # (n_channels, n_positions)
        n = (side != 0).sum(1)
        z = (reading[:, i] * side).sum(1) / n.clamp_min(1)
        for k in range(channels.n_channels):
            value = z[k].item() if n[k] >= least else float("nan")
            rows.append((neuron, k, int(n[k]), value))
    return pd.DataFrame(rows, columns=["neuron", "channel", "n_positions", "z"])
