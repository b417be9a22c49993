"""What the explorer draws of a neuron, as plain data: js/view/data.js reads it."""

from __future__ import annotations

import base64
import math
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.evidence import support
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.tails import z_scores

BIN = 0.5
"""Width of a histogram's bins, in standard deviations."""
N_NAMED = 8
"""Tokens named at each end of a neuron's own projection."""
SLIDERS = ("lambda_kurtosis", "lambda_fidelity", "threshold", "solver", "moments")
"""Settings that the explorer has a control for."""


class Place(TypedDict):
    """Where a neuron is."""

    layer: int
    kind: str
    index: int


def describe(
    channels: Channels, *, source: str = "", n_null: int | None = None
) -> list[dict[str, Any]]:
    """Each neuron with its own projection and its channels, ready for JSON.

    Args:
        channels: of one layer and kind.
        source: where the channels come from, shown as the explorer's status.
        n_null: how many matched vectors their p-values are against.

    Returns:
        One dictionary per neuron. Vectors are float32, little-endian, in base64; numbers are
        rounded to what is drawn. ``made`` holds the sliders' values that the channels were made
        with.
    """
    made = slider_values(channels.settings, channels.n_channels)
    evidence = channels.support if channels.support is not None else support(channels)
    return [
        {
            "layer": channels.layer,
            "kind": channels.kind,
            "index": channels.indices[row],
            "source": source,
            "made": made,
            "nNull": n_null,
            "vocabulary": getattr(channels.vocabulary, "name", ""),
            "w": encode(channels.weight_vectors[row]),
            **_own_projection(channels, row),
            "channels": [
                _channel(channels, evidence, row, column) for column in range(channels.n_channels)
            ],
        }
        for row in range(channels.n_neurons)
    ]


def slider_values(settings: Settings, n_channels: int) -> dict[str, Any]:
    """Where the explorer's sliders stand for some settings."""
    return {name: getattr(settings, name) for name in SLIDERS} | {"n_channels": n_channels}


def encode(vector: Tensor) -> str:
    """Float32 numbers, little-endian, in base64."""
    return base64.b64encode(vector.float().contiguous().numpy().astype("<f4").tobytes()).decode()


def decode(text: str) -> Float[Tensor, " n"]:
    """What :func:`encode` wrote.

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


def _own_projection(channels: Channels, row: int) -> dict[str, Any]:
    z, skewness, kurtosis = _standardised(channels, channels.weight_vectors[row])
    tokens = channels.vocabulary.tokens
    named = channels.vocabulary.token_weights.cpu() > 0

    def ends(sign: int) -> list[tuple[str, float]]:
        top = (sign * z).masked_fill(~named, -torch.inf).topk(min(N_NAMED, len(z))).indices.tolist()
        return [(tokens[i], round(float(z[i]), 2)) for i in top]

    return {
        "kurtosis": round(kurtosis, 3),
        "skewness": round(skewness, 3),
        "positive": ends(1),
        "negative": ends(-1),
        "histogram": histogram(z),
    }


def _channel(channels: Channels, evidence: Tensor, row: int, column: int) -> dict[str, Any]:
    z, _, _ = _standardised(channels, channels.vectors[row, column])
    n_top = channels.top_ids.shape[2]
    return {
        "vector": encode(channels.vectors[row, column]),
        "kurtosis": round(float(channels.kurtosis[row, column]), 2),
        "cosine": round(float(channels.cosine[row, column]), 4),
        "tail": int(channels.polarity[row, column]),
        "nMasked": int(channels.n_masked[row, column]),
        "support": round(float(evidence[row, column]), 3),
        "p": _rounded(channels.p_value, row, column),
        "q": _rounded(channels.q_value, row, column),
        "converged": bool(channels.converged[row, column]),
        "top": [(token, round(z, 2)) for token, z in channels.top_tokens(row, column, n_top)],
        "histogram": histogram(z),
    }


def _rounded(values: Tensor | None, row: int, column: int) -> float | None:
    """A p- or q-value; None where there is none."""
    value = torch.nan if values is None else float(values[row, column])
    return None if math.isnan(value) else float(f"{value:.4g}")


def _standardised(channels: Channels, vector: Tensor) -> tuple[Tensor, float, float]:
    """z-scores of a vector's projection, its skewness and its excess kurtosis."""
    projection = channels.vocabulary.projection
    z = z_scores(vector[None].to(projection), projection)[0].float().cpu()
    return z, float((z**3).mean()), float((z**4).mean() - 3)
