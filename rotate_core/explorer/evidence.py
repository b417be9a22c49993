"""How far a neuron's channels stand out: p against matched vectors, q over what an atlas has.

A q-value is a statement about many channels: of those with a smaller one, a share is false. So it
is never taken over the handful of neurons that a page happens to show. Where an atlas has
calibrated a layer and kind, it is over the atlas's neurons; elsewhere there is none, only p.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.null.calibration import p_values, q_values
from rotate_core.null.evidence import statistics

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels


@dataclass(frozen=True, eq=False)
class Comparison:
    """What channels of one layer and kind are held against."""

    statistic: str
    """What channels are ranked by: a name in ``support.STATISTICS``."""
    null: Float[Tensor, "n_null n_channels"]
    """Its values of matched vectors' channels, float64."""
    indices: tuple[int, ...] = ()
    """Numbers of the neurons that an atlas has calibrated; none without an atlas."""
    p_value: Float[Tensor, "n_neurons n_channels"] | None = None
    """Their p-values, float64, one row per neuron."""

    @staticmethod
    def from_atlas(atlas: Atlas, layer: int, kind: str) -> Comparison | None:
        """An atlas's matched vectors and p-values; None where it has not calibrated the group."""
        if (layer, kind) not in atlas.manifest.groups():
            return None
        if not atlas.shards(layer=layer, kind=kind, null=True):
            return None
        if not atlas.shards(layer=layer, kind=kind):
            return None
        columns = ["neuron", "channel"]
        shape = (-1, atlas.manifest.n_channels_of(layer, kind))
        statistic = atlas.manifest.statistic
        null, neurons = (
            atlas.table([*columns, name], layer=layer, kind=kind, null=of_null).sort_values(columns)
            for name, of_null in ((statistic, True), ("p_value", False))
        )
        p = torch.tensor(neurons["p_value"].to_numpy(), dtype=torch.float64).view(shape)
        if p.isnan().any():  # p-values are written when the last neuron is there
            return None
        values = torch.tensor(null[statistic].to_numpy(), dtype=torch.float64).view(shape)
        indices = tuple(neurons["neuron"].drop_duplicates().tolist())
        return Comparison(statistic, values, indices, p)


def measure(channels: Channels, against: Comparison) -> Channels:
    """The channels with support, p-value and, where there is an atlas, q-value.

    Args:
        channels: decomposed as those that they are held against.
        against: of the same layer and kind.

    Returns:
        p and q are NaN at positions that the null does not reach; without an atlas q is None.
    """
    values = statistics(channels, ("support", against.statistic))
    n = min(channels.n_channels, against.null.shape[1])
    p = torch.full(channels.vectors.shape[:2], torch.nan, dtype=torch.float64)
    p[:, :n] = p_values(values[against.statistic][:, :n], against.null)
    q = None
    if against.p_value is not None:
        q = torch.full_like(p, torch.nan)
        for row, index in enumerate(channels.indices):
            others = [i for i, other in enumerate(against.indices) if other != index]
            q[row, :n] = q_among(p[row, :n], against.p_value[others, :n])
    return dataclasses.replace(channels, support=values["support"], p_value=p, q_value=q)


def q_among(
    p: Float[Tensor, " n_channels"], others: Float[Tensor, "n_others n_channels"]
) -> Float[Tensor, " n_channels"]:
    """A neuron's q-values as they would be among other neurons, with this one added to them.

    Benjamini-Hochberg at each position by itself, as an atlas's own are (``support.q_values``).
    Ours: a neuron that is looked at because it was chosen counts as one of the layer's, not as the
    only one.

    Args:
        p: of the neuron's channels.
        others: p-values of the other neurons' channels at the same positions, this neuron's left
            out.
    """
    return q_values(torch.cat([p.unsqueeze(0), others]))[0]
