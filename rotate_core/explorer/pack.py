"""U in the form that a browser computes with: int8, one scale per token, and what else it needs.

Rounding U to int8 costs nothing that counts: the channels keep their direction (see the chapter on
the explorer). What the browser could compute but not quickly, the eigenvectors of U's
covariance, comes along.
"""

from __future__ import annotations

import json
import struct

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from rotate_core.models.vocabulary import Vocabulary
from rotate_core.rotation.curvature import Curvature

MAGIC = b"ROTATEU2"
ALIGNMENT = 16
LEVELS = 127
"""Whole numbers on either side of 0: as many as int8 holds. Fewer make a smaller file, and change
first channels: benchmarks/explorer.json has how many."""


def quantise(
    projection: Float[Tensor, "d_model d_vocab"], levels: int = LEVELS
) -> tuple[Int8[Tensor, "d_vocab d_model"], Float[Tensor, " d_vocab"]]:
    """U token by token, rounded to int8: ``U[:, i]`` is about ``scale[i] * rows[i]``.

    Args:
        projection: U.
        levels: the largest whole number; the explorer's is :data:`LEVELS`.

    Returns:
        Rows, and scales in float32; a token whose column is zero has the scale 0.
    """
    columns = projection.T.float()
    scale = columns.abs().amax(1) / levels
    rows = torch.round(columns / scale.clamp_min(torch.finfo(scale.dtype).tiny).unsqueeze(1))
    return rows.to(torch.int8), scale


def rounded(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary as a browser has it: U rounded to int8, all else as it was."""
    rows, scale = quantise(vocabulary.projection)
    projection = (rows.float() * scale.unsqueeze(1)).T
    return Vocabulary(
        projection, vocabulary.token_weights.float(), vocabulary.tokens, vocabulary.name
    )


def pack(vocabulary: Vocabulary) -> bytes:
    """The vocabulary as one file; ``web/solver/pack.js`` reads it.

    Little-endian: the magic word, then as uint32 d_model, bytes of a row (d_model rounded up to
    16), d_vocab, bytes of the token strings. From byte 32 on, each part padded to 16 bytes: scales
    and token weights (float32), eigenvalues of the covariance and eigenvectors, one after the other
    (float32), token strings (a JSON list), rows (int8).
    """
    rows, scale = quantise(vocabulary.projection)
    d_vocab, d_model = rows.shape
    stride = -(-d_model // ALIGNMENT) * ALIGNMENT
    padded = torch.zeros(d_vocab, stride, dtype=torch.int8)
    padded[:, :d_model] = rows
    weights = vocabulary.token_weights.float()
    curvature = Curvature.of(vocabulary.projection.float(), weights)
    tokens = json.dumps(list(vocabulary.tokens), ensure_ascii=False).encode(errors="replace")
    header = MAGIC + struct.pack("<4I", d_model, stride, d_vocab, len(tokens))
    numbers = scale, weights, curvature.values, curvature.vectors.T
    parts = [header, *map(_bytes, numbers), tokens, _bytes(padded)]
    return b"".join(part + bytes(-len(part) % ALIGNMENT) for part in parts)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
