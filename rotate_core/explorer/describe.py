"""A neuron and its channels as plain data that the explorer draws: web/view/data.js reads it."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.calibration import Calibration
from rotate_core.null.evidence import statistics
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.tails import z_scores

BIN = 0.5
"""Width of a histogram's bins, in standard deviations."""
N_NAMED = 8
"""Tokens named at each end of a neuron's own projection."""
SLIDERS = ("lambda_kurtosis", "lambda_fidelity", "threshold", "solver", "moments")
"""Settings that the explorer has a control for."""


def describe(channels: Channels, *, source: str = "") -> dict[str, Any]:
    """A neuron with its own projection and its channels, ready for JSON.

    Args:
        channels: of one neuron.
        source: where the channels come from, shown as the explorer's status.

    Returns:
        Vectors are float32, little-endian, in base64; numbers are rounded to what is drawn.
        ``made`` holds the sliders' values that the channels were made with, ``statistic`` the name
        of what channels are ranked by, and a channel's ``score`` its value.
    """
    projection = channels.vocabulary.projection
    vectors = torch.cat([channels.weight_vectors, channels.vectors[0]])
    z = z_scores(vectors, projection).float().cpu()
    calibration = channels.calibration
    return {
        "layer": channels.layer,
        "kind": channels.kind,
        "index": channels.indices[0],
        "source": source,
        "made": slider_values(channels.settings) | {"n_channels": channels.n_channels},
        "nNull": None if calibration is None else calibration.n_null,
        "statistic": _statistic(channels),
        "vocabulary": getattr(channels.vocabulary, "name", ""),
        "w": encode(channels.weight_vectors[0]),
        "kurtosis": round(float((z[0] ** 4).mean() - 3), 3),
        "skewness": round(float((z[0] ** 3).mean()), 3),
        "positive": _furthest(channels, z[0], 1),
        "negative": _furthest(channels, z[0], -1),
        "histogram": histogram(z[0]),
        "channels": _channels(channels, z[1:]),
    }


def slider_values(settings: Settings) -> dict[str, Any]:
    """The settings that have a slider, by name."""
    return {name: getattr(settings, name) for name in SLIDERS}


def encode(vector: Tensor) -> str:
    """Float32 numbers, little-endian, in base64."""
    return base64.b64encode(vector.float().contiguous().numpy().astype("<f4").tobytes()).decode()


def decode(text: str) -> Float[Tensor, " n"]:
    """The vector that :func:`encode` wrote.

    Raises:
        ValueError: it is no base64, or not of whole numbers.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    return torch.from_numpy(values.astype(np.float32))


def histogram(z: Float[Tensor, " d_vocab"]) -> dict[str, Any]:
    """Counts in bins of half a standard deviation, from the lowest that has any to the highest."""
    bins = torch.floor(z / BIN).long()
    first = int(bins.min())
    counts = torch.bincount(bins - first)
    return {"from": first * BIN, "step": BIN, "counts": counts.tolist()}


def _furthest(
    channels: Channels, z: Float[Tensor, " d_vocab"], sign: int
) -> list[tuple[str, float]]:
    """The tokens at one end of the neuron's own projection, with their z-scores."""
    excluded = channels.vocabulary.token_weights.cpu() == 0
    top = (sign * z).masked_fill(excluded, -torch.inf).topk(min(N_NAMED, len(z))).indices
    return [(channels.vocabulary.tokens[i], round(float(z[i]), 2)) for i in top.tolist()]


def _channels(channels: Channels, z: Float[Tensor, "n_channels d_vocab"]) -> list[dict[str, Any]]:
    """One dictionary per channel."""
    name = _statistic(channels)
    score = statistics(channels, (name,))[name]
    n_top = channels.top_ids.shape[2]
    return [
        {
            "vector": encode(channels.vectors[0, i]),
            "kurtosis": round(float(channels.kurtosis[0, i]), 2),
            "cosine": round(float(channels.cosine[0, i]), 4),
            "tail": int(channels.polarity[0, i]),
            "nMasked": int(channels.n_masked[0, i]),
            "score": round(float(score[0, i]), 3),
            "p": _rounded(channels.p_value, i),
            "q": _rounded(channels.q_value, i),
            "converged": bool(channels.converged[0, i]),
            "top": [(token, round(z, 2)) for token, z in channels.top_tokens(0, i, n_top)],
            "histogram": histogram(z[i]),
        }
        for i in range(channels.n_channels)
    ]


def _statistic(channels: Channels) -> str:
    """What p- and q-values rank channels by; what they would, where there are none."""
    return Calibration.statistic if channels.calibration is None else channels.calibration.statistic


def _rounded(values: Tensor | None, channel: int) -> float | None:
    """A p- or q-value to four digits; None where there is none."""
    value = math.nan if values is None else float(values[0, channel])
    return None if math.isnan(value) else float(f"{value:.4g}")
