"""Products of gate and in with the MLP input where their channel's tokens are (chapter 4, ours).

A channel of gate or in says which tokens its vector w looks for. So where these tokens are, or come
next, ``w . x`` should be far out. A matched vector can be asked the same, with the same x: that is
the null, and needed, as w and its channels share a vocabulary with the model whatever w is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels, first_channels
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.null.tails import tail_signs
from rotate_core.verdicts.intervals import Estimate, difference, interval

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.atlas import Atlas
    from rotate_core.models import Model
    from rotate_core.text import Activations

BEYOND, OTHERS, MATCHED = GROUPS = (f"q < {SIGNIFICANT:g}", "others", "matched vectors")
"""Channels beyond the null, the other channels of neurons, and those of matched vectors."""


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
    parts = []
    for i, neuron in enumerate(channels.indices):
        signs = tail_signs(channels, i)[:, token]  # (n_channels, n_positions)
        n = (signs != 0).sum(1)
        z = torch.where(n >= least, (reading[:, i] * signs).sum(1) / n, math.nan)
        part = {"neuron": neuron, "channel": range(len(n)), "n_positions": n, "z": z}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def reading_of_first_channels(
    atlas: Atlas, model: Model, inputs: Mapping[int, Activations]
) -> pd.DataFrame:
    """:func:`reading_at_tails` of the first channels of gate and in vectors in layers of an atlas.

    Args:
        atlas: of these layers.
        model: its model.
        inputs: what each layer's MLP reads on a text ("mlp_in").

    The token read is the current one in the first half of the model's layers, in the second half
    the next.

    Returns:
        One row per first channel whose tokens the text has often enough: neuron, channel,
        n_positions, z, layer, kind, what (of :data:`GROUPS`), and over: z less the mean z of the
        matched vectors of the same layer and kind.
    """
    import pandas as pd

    kinds = [kind for kind in model.kinds if kind != "out"]
    parts = []
    for layer, kind, null in product(inputs, kinds, (False, True)):
        windows, x = inputs[layer].windows, inputs[layer].values
        token = windows.current if layer < model.n_layers / 2 else windows.next
        channels = first_channels(atlas.channels(layer=layer, kind=kind, null=null), 1)
        part = reading_at_tails(channels, x, token)
        q = channels.q_value  # which matched vectors have none of
        what = MATCHED if q is None else np.where(q[:, 0] < SIGNIFICANT, BEYOND, OTHERS)
        parts.append(part.assign(layer=layer, kind=kind, what=what))
    table = pd.concat(parts, ignore_index=True).dropna(subset="z")
    expected = table.z.where(table.what == MATCHED).groupby([table.layer, table.kind])
    return table.assign(over=table.z - expected.transform("mean"))


def over_matched_vectors(table: pd.DataFrame, *, seed: int) -> dict[str, dict[str, Estimate]]:
    """By group, mean z and how much it is over that of matched vectors; NaN where there are none.

    Args:
        table: of :func:`reading_of_first_channels`.
        seed: of the intervals, which are over vectors.
    """
    cluster = table.layer.astype(str) + "/" + table.neuron.astype(str)
    null = table.what == MATCHED
    estimates = {}
    for what in GROUPS:
        part = table.what == what
        sides = (table.over[part], table.over[null], cluster[part], cluster[null])
        estimates[what] = {
            "z": interval(table.z[part], cluster[part], seed=seed),
            "over matched vectors": difference(*sides, seed=seed),
        }
    return estimates
