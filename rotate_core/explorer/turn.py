"""A vector that turns into its channel, step by step, as data that a page can play."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.explorer.describe import histogram
from rotate_core.models.tokens import visible
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.rotation.tails import z_scores

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.channels import Channels

N_FRAMES = 21
"""Points from the vector to its channel, both of them included."""
N_NAMED = 6
"""Tokens of the channel that are followed."""
N_SHOWN = 3
"""Neurons on a page."""
TURNED = (
    "turned furthest of those that stand out",
    "turned least of those that stand out",
)
SHARP = (
    "the sharpest of those that do not stand out",
    "the second sharpest of those that do not stand out",
    "the third sharpest of those that do not stand out",
)
"""What a neuron was chosen for."""


def geodesic(
    w: Float[Tensor, " d_model"], channel: Float[Tensor, " d_model"], n: int = N_FRAMES
) -> Float[Tensor, "n d_model"]:
    """Unit vectors at equal angles on the great circle from one direction to another.

    Raises:
        ValueError: the two are parallel, so that no circle is singled out.
    """
    start, end = (v.double() / v.double().norm() for v in (w, channel))
    aside = end - start * (start @ end)
    if aside.norm() < 1e-6:
        raise ValueError(f"a cosine of {start @ end:.6f}: wanted directions that are not parallel")
    t = torch.linspace(0, 1, n, dtype=torch.float64) * torch.atan2(aside.norm(), start @ end)
    return (t.cos().outer(start) + t.sin().outer(aside / aside.norm())).to(w)


def turning(channels: Channels, row: int) -> dict[str, Any]:
    """What is seen on the great circle from a vector to its first channel (ours).

    The solver takes a way of its own to the same end.

    Args:
        channels: whose U is at hand.
        row: of the vector.

    Returns:
        Ready for JSON. One per point: ``cosine`` with the vector, excess ``kurtosis`` of the
        projection, number of tokens ``beyond`` the ``threshold``, ``histogram`` of z-scores. And
        ``tokens``: the channel's furthest at the end, each with its z-scores at all points.
    """
    w = channels.weight_vectors[row]
    points = geodesic(w, channels.vectors[row, 0])
    z = z_scores(points, channels.vocabulary.projection).cpu()
    threshold = channels.settings.threshold
    named = channels.top_ids[row, 0, :N_NAMED].tolist()
    return {
        "threshold": threshold,
        "cosine": _rounded(torch.cosine_similarity(points, w.unsqueeze(0)), 3),
        "kurtosis": _rounded((z.double() ** 4).mean(1) - 3, 1),
        "beyond": (z.abs() > threshold).sum(1).tolist(),
        "histogram": [histogram(point) for point in z],
        "tokens": [[visible(channels.vocabulary.tokens[i]), _rounded(z[:, i], 1)] for i in named],
    }


def worth_seeing(table: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Neurons by rule, none by hand: what they are of those that stand out, and their rows.

    Of first channels whose five furthest tokens all have a letter (of all, where none is so): the
    one that turned furthest and the one that turned least of those that stand out from random
    vectors'; the others are the sharpest of those that do not.

    Args:
        table: of :meth:`.Atlas.table`.

    Returns:
        Three, or as many as there are.
    """
    first = table[table["channel"] == 0]
    letters = [all(any(map(str.isalpha, t)) for t in row[:5]) for row in first["top_tokens"]]
    first = first[letters] if any(letters) else first
    beyond = (first["q_value"] < SIGNIFICANT).fillna(False)
    certain, others = first[beyond].sort_values("cosine"), first[~beyond].sort_values("kurtosis")
    ends = [row for _, row in certain.iterrows()]
    ends = ends if len(ends) < 2 else [ends[0], ends[-1]]
    rest = [row for _, row in others[::-1][: N_SHOWN - len(ends)].iterrows()]
    return [*zip(TURNED, ends, strict=False), *zip(SHARP, rest, strict=False)]


def _rounded(values: Tensor, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
