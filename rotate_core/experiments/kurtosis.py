"""Excess kurtosis of every neuron of a model, beside vectors that are no neurons (chapter 5).

Cost: one product with U for each neuron (2 d_model d_vocab flops) and four passes over the logits,
block by block; no logits are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.moments import Sample

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.models import Model

BATCH = 256
"""Vectors at a time."""


def kurtosis_of(
    vectors: Float[Tensor, "n d_model"], projection: Float[Tensor, "d_model d_vocab"]
) -> Float[Tensor, " n"]:
    """Excess kurtosis of ``U^T w`` for many vectors (paper, section 3.1), float64.

    Population moments; every token counts, and alike. What
    :func:`rotate_core.rotation.moments.excess_kurtosis` gives, without
    the array of logits.
    """
    result = torch.empty(len(vectors), dtype=torch.float64)
    sample = Sample.uniform(projection)
    for start in range(0, len(vectors), BATCH):
        w = vectors[start : start + BATCH].to(projection)
        w = w / w.norm(dim=1, keepdim=True)
        m2 = w.new_zeros(len(w), dtype=torch.float64)
        m4 = torch.zeros_like(m2)
        for block in sample.blocks(len(w)):
            z = sample.project(w, block, w.new_empty(len(w), block.stop - block.start))
            z.mul_(z)
            m2 += z.sum(1)
            m4 += torch.linalg.vector_norm(z, dim=1).double() ** 2
        d_vocab = projection.shape[1]
        result[start : start + BATCH] = (m4 / d_vocab / (m2 / d_vocab) ** 2 - 3).cpu()
    return result


def whole_model(
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
    """Kurtosis of the neurons of a model by layer, kind and side, with matched vectors beside them.

    Args:
        model: whose neurons.
        sides: "unembedding" and "embedding"; one says all where the two are tied.
        layers: None for all.
        n_neurons: so many of each layer, drawn by seed; None for all.
        n_null: matched vectors for each layer and kind.
        seed: of both draws; each layer and kind has matched vectors of its own.
        device: where to compute; None is the CPU.
        progress: show a bar.

    Returns:
        One row per vector: layer, kind, side, neuron (-1 for a matched vector), null, kurtosis.
    """
    import pandas as pd

    tables = []
    chosen = range(model.n_layers) if layers is None else layers
    total = len(sides) * len(chosen) * len(model.kinds)
    with tqdm(total=total, unit="matrix", disable=not progress, leave=False) as bar:
        for side in sides:
            projection = model.vocabulary(0, side=side).projection.to(device or "cpu")
            for layer in chosen:
                for kind in model.kinds:
                    everything = model.neurons(layer, kind).vectors
                    generator = torch.Generator().manual_seed(seed * 10_007 + layer)
                    rows = torch.randperm(len(everything), generator=generator)[:n_neurons]
                    rows = rows.sort().values
                    null_seed = own_seed(seed, layer, kind)
                    null = matched_vectors(everything, n_null, seed=null_seed)
                    kurtosis = kurtosis_of(torch.cat([everything[rows], null]), projection)
                    table = {
                        "layer": layer,
                        "kind": kind,
                        "side": side,
                        "neuron": [*rows.tolist(), *[-1] * n_null],
                        "null": [False] * len(rows) + [True] * n_null,
                        "kurtosis": kurtosis.numpy(),
                    }
                    tables.append(pd.DataFrame(table))
                    bar.update()
    return pd.concat(tables, ignore_index=True)
