"""How far channels beyond the null had to turn: their cosine with the neuron, beside the null's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.verdicts.intervals import Estimate, difference, interval
from rotate_core.verdicts.wording import finding

if TYPE_CHECKING:
    import pandas as pd

NEAR = 0.95
"""Share of matched vectors' channels that a channel has to be closer to its vector than."""
MARGIN = 0.05
"""Of a share: the smallest difference of interest, as for a claim."""


@dataclass(frozen=True)
class Turned:
    """Of the channels beyond the null, the share that hardly had to turn."""

    share: Estimate
    """Of those beyond the null, over neurons; NaN where none is."""
    others: Estimate
    """Of the other channels."""
    cosine: float
    """The cosine that a twentieth of matched vectors' channels exceeds: what is near."""
    finding: str
    """In words, by rule."""


def nearly_there(table: pd.DataFrame, null: pd.DataFrame, *, seed: int = 0) -> Turned:
    """The share of channels beyond the null that are closer to their neuron than chance (ours).

    A vector that is peaked already has a channel close by; one that is not has to turn, as random
    vectors do.

    Args:
        table: one row per channel: layer, kind, neuron, cosine, q_value.
        null: cosine of each channel of matched vectors.
        seed: of the bootstraps over neurons.
    """
    near = null["cosine"].quantile(NEAR)
    beyond = table["q_value"] < SIGNIFICANT
    close = (table["cosine"] > near).astype(float)
    cluster = table[["layer", "kind", "neuron"]].astype(str).agg("/".join, axis=1)
    share, others = (interval(close[at], cluster[at], seed=seed) for at in (beyond, ~beyond))
    half = interval(close[beyond] - 0.5, cluster[beyond], seed=seed)
    more = difference(close[beyond], close[~beyond], cluster[beyond], cluster[~beyond], seed=seed)
    oftener = finding(
        more,
        margin=MARGIN,
        above="What stands out was nearly there already more often than the rest",
        around="What stands out was nearly there already as often as the rest",
        below="What stands out was nearly there already less often than the rest",
        unknown="This sample cannot tell whether what stands out had to turn less than the rest",
    )
    words = finding(
        half,
        margin=MARGIN,
        above="What stands out is mostly what was nearly there already",
        around=oftener,
        below=oftener,
        unknown=oftener,
    )
    return Turned(share, others, float(near), words if beyond.any() else "Nothing stands out here")
