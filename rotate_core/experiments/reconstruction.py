"""How much of a neuron its channels hold, and whether other seeds find them too (chapter 6)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.matched import matched_rotations

if TYPE_CHECKING:
    import pandas as pd

SAME_COSINE, SAME_JACCARD = 0.95, 0.5
"""Two channels of a neuron count as one above either."""


def reconstruction_cosine(
    w: Float[Tensor, "*batch d_model"], channels: Float[Tensor, "*batch n_channels d_model"]
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
        cosine, norm.
    """
    import pandas as pd

    w = channels.weight_vectors
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    cosines = {
        "channels": reconstruction_cosine(w, channels.vectors)[None],
        "matched rotations": reconstruction_cosine(w.expand(n_rotations, -1, -1), rotations),
    }
    parts = []
    for what, cosine in cosines.items():
        index = pd.MultiIndex.from_product(
            [channels.indices, range(1, channels.n_channels + 1)], names=["neuron", "channels"]
        )
        values = {"cosine": cosine, "norm": explained_norm(cosine)}
        columns = {name: value.mean(0).flatten().numpy() for name, value in values.items()}
        parts.append(pd.DataFrame(columns, index).assign(what=what).reset_index())
    return pd.concat(parts, ignore_index=True)


def jaccard(
    a: Int[Tensor, "n_a k"], b: Int[Tensor, "n_b k"], d_vocab: int
) -> Float[Tensor, "n_a n_b"]:
    """Shared share of two token sets, for all pairs: ``|A and B| / |A or B|``."""
    first, second = (torch.zeros(len(ids), d_vocab).scatter_(1, ids, 1.0) for ids in (a, b))
    both = first @ second.T
    return both / (first.sum(1, keepdim=True) + second.sum(1) - both)


@dataclass(frozen=True)
class Match:
    """Channels of two runs on the same neurons, paired one to one; (n_neurons,) means."""

    cosine: Float[Tensor, " n_neurons"]
    jaccard: Float[Tensor, " n_neurons"]
    other_cosine: Float[Tensor, " n_neurons"]
    """Of all pairs that were not matched: the null."""
    other_jaccard: Float[Tensor, " n_neurons"]


def match(a: Channels, b: Channels, *, n_top: int = 50) -> Match:
    """Pair the channels of two runs by the Hungarian algorithm on their cosines.

    Jaccard is of the first ``n_top`` tokens of a channel's tail. The null is all other pairs of
    channels of the same neuron: they share the neuron, and so a cosine of about rho^2.
    """
    from scipy.optimize import linear_sum_assignment

    if a.indices != b.indices or a.n_channels != b.n_channels:
        raise ValueError("the runs are of different neurons or numbers of channels")
    d_vocab = len(a.vocabulary.tokens)
    rows = []
    for i in range(a.n_neurons):
        cosine = torch.cosine_similarity(a.vectors[i, :, None], b.vectors[i, None], dim=-1)
        tokens = jaccard(a.top_ids[i, :, :n_top], b.top_ids[i, :, :n_top], d_vocab)
        first, second = linear_sum_assignment(cosine.numpy(), maximize=True)
        paired = torch.zeros_like(cosine, dtype=torch.bool)
        paired[first, second] = True
        rows.append([x[p].mean() for p in (paired, ~paired) for x in (cosine, tokens)])
    values = torch.tensor(rows)
    return Match(values[:, 0], values[:, 1], values[:, 2], values[:, 3])


def stability_table(runs: Sequence[Channels], n_tops: Sequence[int] = (50,)) -> pd.DataFrame:
    """How alike the channels of every two runs on the same neurons are.

    Args:
        runs: of different seeds.
        n_tops: top tokens that the Jaccard is over.

    Returns:
        One row per pair of runs, neuron and n_top: neuron, n_top and the fields of :class:`Match`.
    """
    import pandas as pd

    parts = []
    for a, b in itertools.combinations(runs, 2):
        for n_top in n_tops:
            found = match(a, b, n_top=n_top)
            values = {name: value.numpy() for name, value in vars(found).items()}
            parts.append(pd.DataFrame({"neuron": a.indices, "n_top": n_top} | values))
    return pd.concat(parts, ignore_index=True)


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
