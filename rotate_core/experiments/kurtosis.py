"""Excess kurtosis of the neurons of a model, beside matched vectors (chapter 5).

Cost: one product with U for each neuron (2 d_model d_vocab flops) and four passes over the logits,
block by block; no logits are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.decomposition import usable_device
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.moments import Sample, centred_logits

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.models import Model

BATCH = 256
"""Vectors at a time."""


def kurtosis_of(
    vectors: Float[Tensor, "n d_model"], projection: Float[Tensor, "d_model d_vocab"]
) -> Float[Tensor, " n"]:
    """Excess kurtosis of ``U^T w`` for many vectors (paper, section 3.1), float64.

    What :func:`rotate_core.rotation.moments.excess_kurtosis` gives, without the array of logits.
    """
    sample = Sample.uniform(projection)
    parts = []
    for batch in vectors.split(BATCH):
        w = batch.to(projection)
        _, m2, m4 = centred_logits(w / w.norm(dim=1, keepdim=True), sample)
        parts.append((m4 / m2**2 - 3).cpu())
    return torch.cat(parts)


def kurtosis_table(
    model: Model,
    *,
    sides: Sequence[str] = ("unembedding",),
    layers: Sequence[int] | None = None,
    n_neurons: int | None = None,
    n_null: int = 64,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Kurtosis of neurons and matched vectors by layer, kind and vocabulary side.

    Args:
        model: whose neurons.
        sides: "unembedding" and "embedding"; one says all where the two are tied.
        layers: None for all.
        n_neurons: so many of each layer, drawn by seed; None for all.
        n_null: matched vectors for each layer and kind.
        seed: of both draws; each layer and kind has matched vectors of its own.
        device: where to compute, as for :func:`.usable_device`; None is the CPU.
        progress: show a bar for each side.

    Returns:
        One row per vector: layer, kind, side, neuron (-1 for a matched vector), null, kurtosis.
    """
    import pandas as pd

    parts = []
    layers = range(model.n_layers) if layers is None else layers
    groups = list(itertools.product(layers, model.kinds))
    for side in sides:
        projection = model.vocabulary(0, side=side).projection.to(usable_device(device or "cpu"))
        for layer, kind in tqdm(groups, unit="matrix", disable=not progress, leave=False):
            vectors = model.neurons(layer, kind).vectors
            null = matched_vectors(vectors, n_null, seed=own_seed(seed, layer, kind))
            rows = drawn_neurons(len(vectors), n_neurons, layer, seed=seed).sort().values
            kurtosis = kurtosis_of(torch.cat([vectors[rows], null]), projection)
            part = pd.DataFrame({"neuron": [*rows.tolist(), *[-1] * n_null], "kurtosis": kurtosis})
            parts.append(part.assign(layer=layer, kind=kind, side=side, null=part.neuron < 0))
    return pd.concat(parts, ignore_index=True)


def drawn_neurons(n: int, n_drawn: int | None, layer: int, *, seed: int) -> Int[Tensor, " n_drawn"]:
    """Rows of a layer's n neurons, the same for all its kinds, in the order drawn; None: all."""
    generator = torch.Generator().manual_seed(seed * 10_007 + layer)
    return torch.randperm(n, generator=generator)[:n_drawn]
