"""The browser's vocabulary in fewer whole numbers: its size, and what becomes of channels.

    python benchmarks/explorer.py [plain whitened]

"plain" rounds each token's column by its own largest entry, as the explorer's file does;
"whitened" first gives all directions the same variance. Each part updates its entry of
benchmarks/explorer.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from measured import keep
from torch import Tensor

from rotate_core import Channels, Vocabulary, decompose, load_model
from rotate_core.explorer.book import compressed
from rotate_core.explorer.pack import quantise

OUTPUT = Path(__file__).with_suffix(".json")
LAYERS, EACH = (29, 25, 15, 5), 16
N_CHANNELS = 3
LEVELS = (127, 63, 31, 25, 21, 15, 7)
"""Whole numbers on either side of 0: 8 bits to 4."""
SAME = 0.99
"""Cosine of two channels that are one, as on the explorer's page."""
STEPS = (0.2, 0.35)
"""Of whitened coordinates, in standard deviations: 5 bits and 4 after compression."""


def neurons() -> Tensor:
    """Weight vectors of kind out, drawn from each of four layers."""
    model = load_model("smollm2-135m")
    generator = torch.Generator().manual_seed(0)
    drawn = ((layer, torch.randperm(model.d_mlp, generator=generator)[:EACH]) for layer in LAYERS)
    return torch.cat([model.neurons(layer, "out", i.tolist()).vectors for layer, i in drawn])


def agreement(full: Channels, w: Tensor, rows: Tensor, projection: Tensor) -> dict[str, Any]:
    """Channels over a rounded U against those over the full one; megabytes of its rows as gzip."""
    u = full.vocabulary
    rounded = Vocabulary(projection.contiguous(), u.token_weights, u.tokens, u.name)
    found = decompose(w, rounded, n_channels=N_CHANNELS, progress=False)
    cosine = torch.cosine_similarity(full.vectors, found.vectors, dim=-1)
    top, other = (channels.top_ids[:, :, :10].sort(-1).values for channels in (full, found))
    return {
        "megabytes": round(len(compressed(rows.to(torch.int8).numpy().tobytes())) / 1e6, 1),
        "channels": cosine.numel(),
        "same": int((cosine > SAME).sum()),
        "first_channels": len(cosine),
        "first_same": int((cosine[:, 0] > SAME).sum()),
        "same_top_10": int((top == other).all(-1).sum()),
    }


def plain(full: Channels, w: Tensor) -> dict[str, Any]:
    """Whole numbers up to a level, one scale per token."""
    figures = {}
    for most in LEVELS:
        rows, scale = quantise(full.vocabulary.projection, most)
        figures[str(most)] = agreement(full, w, rows, (rows.float() * scale.unsqueeze(1)).T)
    return figures


def whitened(full: Channels, w: Tensor) -> dict[str, Any]:
    """Steps of the same size in coordinates of variance 1."""
    columns = full.vocabulary.projection.T.double()
    mean = columns.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(columns.T, correction=0))
    deviations = variances.clamp_min(1e-6 * variances.max()).sqrt()
    figures = {}
    for step in STEPS:
        rows = torch.round((columns - mean) @ axes / deviations / step).clamp(-127, 127)
        projection = (rows * step * deviations) @ axes.T + mean
        figures[f"step {step:g}"] = agreement(full, w, rows, projection.T.float())
    return figures


PARTS = {"plain": plain, "whitened": whitened}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    w = neurons()
    full = decompose(
        w, load_model("smollm2-135m").vocabulary(29), n_channels=N_CHANNELS, progress=False
    )
    for name in parser.parse_args().parts:
        keep(OUTPUT, name, PARTS[name](full, w))
