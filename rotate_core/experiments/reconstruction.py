"""Reconstruction of a neuron from its channels, and their stability over seeds (chapter 6)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels, join, split
from rotate_core.decomposition import decompose
from rotate_core.null.matched import matched_rotations

if TYPE_CHECKING:
    import pandas as pd

SAME_COSINE, SAME_JACCARD = 0.95, 0.5
"""Two channels of a neuron count as one above either."""


def decompose_in_batches(
    parts: Iterable[Channels], *, go_on: bool = False, **options: Any
) -> list[Channels]:
    """Decompose neurons of several layers and kinds; one batch for those of one U and settings.

    Args:
        parts: channels of the neurons, such as an atlas has.
        go_on: behind the channels that are there, and not from the start.
        options: of :func:`rotate_core.decompose`.

    Returns:
        The channels of each part, batch by batch.
    """
    batches: dict[Any, list[Channels]] = {}
    for part in parts:
        batches.setdefault((id(part.vocabulary.projection), part.settings), []).append(part)
    results = []
    for alike in batches.values():
        batch = join(alike)
        channels = decompose(
            batch.weight_vectors,
            batch.vocabulary,
            after=batch if go_on else None,
            settings=batch.settings,
            **options,
        )
        results += split(channels, alike)
    return results


def reconstruction_cosine(
    w: Float[Tensor, "*#batch d_model"], channels: Float[Tensor, "*batch n_channels d_model"]
) -> Float[Tensor, "*batch n_channels"]:
    """Cosine of w with its least-squares reconstruction from the first C channels, C = 1, 2, ...

    The reconstruction is the projection onto the channels' span, so its cosine with w is
    ``|w_hat| / |w|``, and the explained norm ``1 - |w - w_hat| / |w|`` follows from it: see
    :func:`explained_norm`. A channel in the span of earlier ones adds nothing.
    """
    rows = channels.double()
    rows = rows / rows.norm(dim=-1, keepdim=True)
    basis = torch.zeros_like(rows)  # orthonormal; a zero row for a channel that adds nothing
    for c in range(rows.shape[-2]):
        rest = rows[..., c, :]
        for _ in range(2):  # Gram-Schmidt, twice is enough
            rest = rest - ((basis @ rest.unsqueeze(-1)) * basis).sum(-2)
        length = rest.norm(dim=-1, keepdim=True)
        basis[..., c, :] = torch.where(length > 1e-6, rest / length, 0.0)
    unit = w.double() / w.double().norm(dim=-1, keepdim=True)
    parts = (basis @ unit.unsqueeze(-1)).squeeze(-1)
    return parts.square().cumsum(-1).clamp_max(1).sqrt()


def explained_norm(cosine: Tensor) -> Tensor:
    """``1 - |w - w_hat| / |w|`` of a least-squares reconstruction at this cosine with w."""
    return 1 - (1 - cosine.square()).clamp_min(0).sqrt()


def reconstruction_table(
    channels: Channels, *, n_rotations: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Cosine and explained norm of each neuron from its first C channels, beside rotations.

    Args:
        channels: of some neurons.
        n_rotations: sets of matched rotations, which are averaged over.
        seed: of the rotations.

    Returns:
        One row per neuron, C and what: neuron, what ("channels" or "matched rotations"), channels,
        cosine, norm, layer, kind, and cluster (the neuron).
    """
    import pandas as pd

    rotations = matched_rotations(channels, n_rotations, seed=seed)
    index = pd.MultiIndex.from_product(
        [channels.indices, range(1, channels.n_channels + 1)], names=["neuron", "channels"]
    )
    parts = []
    for what, sets in (("channels", channels.vectors[None]), ("matched rotations", rotations)):
        cosine = reconstruction_cosine(channels.weight_vectors, sets)
        figures = {"cosine": cosine, "norm": explained_norm(cosine)}
        columns = {name: figure.mean(0).flatten().numpy() for name, figure in figures.items()}
        parts.append(pd.DataFrame(columns, index).assign(what=what).reset_index())
    table = pd.concat(parts, ignore_index=True)
    cluster = f"{channels.layer}/" + table["neuron"].astype(str)
    return table.assign(layer=channels.layer, kind=channels.kind, cluster=cluster)


def jaccard(
    a: Int[Tensor, "n_a k"], b: Int[Tensor, "n_b k"], d_vocab: int
) -> Float[Tensor, "n_a n_b"]:
    """Shared share of two token sets, for all pairs: ``|A and B| / |A or B|``."""
    first, second = (torch.zeros(len(ids), d_vocab).scatter_(1, ids, 1.0) for ids in (a, b))
    shared = first @ second.T
    return shared / (first.sum(1, keepdim=True) + second.sum(1) - shared)


def match(a: Channels, b: Channels, *, n_top: int = 50) -> pd.DataFrame:
    """Pair the channels of two runs by the Hungarian algorithm on their cosines.

    Jaccard is of the first ``n_top`` tokens of a channel's tail. The null is all other pairs of
    channels of the same neuron: they share the neuron, and so a cosine of about rho^2.

    Returns:
        One row per neuron: neuron, means over its pairs (cosine, jaccard) and over all others
        (other_cosine, other_jaccard).

    Raises:
        ValueError: the runs are of different neurons or numbers of channels.
    """
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    if a.indices != b.indices or a.n_channels != b.n_channels:
        raise ValueError("the runs are of different neurons or numbers of channels")
    d_vocab = len(a.vocabulary.tokens)
    rows = []
    for i, neuron in enumerate(a.indices):
        cosine = torch.cosine_similarity(a.vectors[i, :, None], b.vectors[i, None], dim=-1)
        tokens = jaccard(a.top_ids[i, :, :n_top], b.top_ids[i, :, :n_top], d_vocab)
        paired = torch.zeros_like(cosine, dtype=torch.bool)
        paired[linear_sum_assignment(cosine.numpy(), maximize=True)] = True
        means = [x[which].mean().item() for which in (paired, ~paired) for x in (cosine, tokens)]
        rows.append((neuron, *means))
    columns = ["neuron", "cosine", "jaccard", "other_cosine", "other_jaccard"]
    return pd.DataFrame(rows, columns=columns)


def stability_table(runs: Sequence[Channels], n_tops: Sequence[int] = (50,)) -> pd.DataFrame:
    """The likeness of the channels of every two runs on the same neurons.

    Args:
        runs: of different seeds.
        n_tops: top tokens that the Jaccard is over.

    Returns:
        One row per pair of runs, neuron and n_top: n_top, the columns of :func:`match`, layer,
        kind, and cluster (the neuron).
    """
    import pandas as pd

    pairs = itertools.product(itertools.combinations(runs, 2), n_tops)
    parts = [match(a, b, n_top=n_top).assign(n_top=n_top) for (a, b), n_top in pairs]
    table = pd.concat(parts, ignore_index=True)
    cluster = f"{runs[0].layer}/" + table["neuron"].astype(str)
    return table.assign(layer=runs[0].layer, kind=runs[0].kind, cluster=cluster)


def n_distinct(
    channels: Channels, *, cosine: float = SAME_COSINE, jaccard_index: float = SAME_JACCARD
) -> Int[Tensor, " n_neurons"]:
    """Channels of each neuron that repeat no earlier one.

    A channel repeats another at a cosine, or a Jaccard of the top tokens, above these.
    """
    d_vocab = len(channels.vocabulary.tokens)
    counts = []
    for vectors, ids in zip(channels.vectors, channels.top_ids, strict=True):
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        same = (unit @ unit.T > cosine) | (jaccard(ids, ids, d_vocab) > jaccard_index)
        kept: list[int] = []
        for i in range(len(unit)):
            if not same[i, kept].any():
                kept.append(i)
        counts.append(len(kept))
    return torch.tensor(counts)
