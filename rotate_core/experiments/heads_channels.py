"""Heads in the vocabulary: is what a head selects by written in tokens (chapter 16)? All ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.decomposition import decompose
from rotate_core.experiments.heads_prompts import CATEGORIES, FilterPrompts, Half, Head
from rotate_core.heads import Subspace, pull_back, random_directions
from rotate_core.models.tokens import visible
from rotate_core.null import calibrate, p_values

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.models import Model

N_PROJECTED = 200
"""Random directions that are projected onto the vocabulary; to decompose as many takes minutes."""


def channels(
    model: Model,
    first: Half,
    head: Head,
    part: Subspace,
    unseen: FilterPrompts,
    *,
    n_null: int,
    seed: int,
) -> pd.DataFrame:
    """What a head's query and key have of each category, in the vocabulary.

    A category's direction is the mean query that asks for it, or the mean key of its words, less
    the mean of all, in the subspace; pulled back to the residual stream. Two questions, both beside
    random directions of the same head: is its first vocabulary channel the head's own? And does it
    project onto the category's words, those that were not seen, more than onto the others'?

    Returns:
        One row per side and category: layer, head, side, category; tail (of the channel's heaviest
        token: + is where the direction points), p_channel; z (own words' mean z-score less that of
        the other categories' words), p_words; and the channel's tokens.
    """
    import pandas as pd

    q, k = first.at_the_words(head)
    vocabulary, given = model.vocabulary(head[0]), first.given
    words = [unseen.words_of(c) for c in range(len(CATEGORIES))]
    tables = []
    for side, x, basis in (("query", q, part.query), ("key", k[:, 0], part.key)):
        means = torch.stack([x[given.category == c].mean(0) for c in range(len(CATEGORIES))])
        inside = torch.nn.functional.normalize(basis @ basis.T @ (means - means.mean(0)).T, dim=0)
        at: dict[str, Any] = {"layer": head[0], "head": head[1], "side": side}
        directions = pull_back(model, inside, **at)
        random, fewer = (
            random_directions(model, n, seed=seed, **at) for n in (N_PROJECTED, n_null)
        )
        own, null = (
            decompose(each, vocabulary, n_channels=1, seed=seed, progress=False)
            for each in (directions, fewer)
        )
        own = calibrate(own, null)
        found = own.table(k=5)
        heaviest = [own.top_tokens(c, 0, k=1)[0][1] for c in range(len(CATEGORIES))]
        z, z_null = (
            contrasts(each.vectors @ vocabulary.projection, words) for each in (directions, random)
        )
        columns = {
            "category": list(CATEGORIES),
            "tail": ["+" if score > 0 else "−" for score in heaviest],
            "p_channel": found["p_value"],
            "z": z.diagonal(),
            "p_words": p_values(z.diagonal().unsqueeze(0), z_null)[0],
            "tokens": [" ".join(map(visible, tokens)) for tokens in found["top_tokens"]],
        }
        tables.append(pd.DataFrame(at | columns))
    return pd.concat(tables, ignore_index=True)


def contrasts(
    logits: Float[Tensor, "n d_vocab"], words: Sequence[Int[Tensor, " n_words"]]
) -> Float[Tensor, "n n_categories"]:
    """The mean z-score of each category's words, less the mean of the other categories'."""
    z = (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)
    means = torch.stack([z[:, own].mean(1) for own in words], 1)
    return means - (means.sum(1, keepdim=True) - means) / (len(words) - 1)
