"""Heads of a language model: do they attend by a subspace of their keys (chapter 16)?

On one half of the prompts a head's subspace of the category that is asked for is found and heads
are chosen, on the other half, of other words, they are tested: two keys swap what they have in the
subspace.

Source: arXiv:2602.04752 for the subspace and the swap. Ours: all categories are contrasted at once,
with centred queries; subspaces of permuted labels beside random ones; channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core import decompose
from rotate_core.experiments.heads_prompts import CATEGORIES, FilterPrompts, at_the_words
from rotate_core.heads import (
    QueriesKeys,
    Subspace,
    attribute,
    contrastive,
    pull_back,
    random_directions,
    random_subspaces,
    swap,
)
from rotate_core.null import calibrate
from rotate_core.null.matched import own_seed
from rotate_core.verdicts.intervals import holm

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.models import Model

CATEGORY, LISTED = "category", "a word of the list"
PERMUTED, RANDOM, WHOLE = "labels permuted", "random", "whole key"
BUT_CATEGORY = "all but the category"
N_DRAWS = 10
"""Random subspaces, and subspaces of permuted labels, beside each."""
Bases = dict[str, list[Float[Tensor, "d rank"]]]


def find(
    read: QueriesKeys, given: FilterPrompts, *, n_permutations: int = 99, seed: int = 0
) -> tuple[pd.DataFrame, dict[tuple[int, int], Subspace]]:
    """The category's subspace in every head that was read.

    Returns:
        One row per head: layer, head, rank, energy_rank, p_value, attention (of the last token to
        the word asked for, of all its attention) and change (of the two words' attention, by a swap
        in the very prompts that the subspace is from). And the subspaces.
    """
    import pandas as pd

    rows, parts = [], {}
    for layer in read.layers:
        for head in range(read.n_heads):
            q, k = at_the_words(read, given, layer, head)
            part = contrastive(
                q, k[:, :1], k[:, 1:],
                centred=True, n_permutations=n_permutations, seed=seed, name=CATEGORY,
            )  # fmt: skip
            own = swaps(read, given, layer, head, {CATEGORY: [part.key]}, seed=seed)
            rows.append(
                {"layer": layer, "head": head, "rank": part.rank}
                | {"energy_rank": part.energy_rank, "p_value": part.p_value}
                | {"attention": float(_attention(read, given, layer, head).mean())}
                | {"change": own["change"].mean()}
            )
            parts[layer, head] = part
    return pd.DataFrame(rows), parts


def choose(found: pd.DataFrame, n: int, *, length: int) -> list[tuple[int, int]]:
    """The heads that a swap changes most, of those that look at the word that is asked for.

    The change is of what two words get *together*, however little that is. So a head counts where
    the word gets as much as it would if all tokens got the same, ``1 / length``.
    """
    looks = found[found["attention"] >= 1 / length].nlargest(n, "change")
    return [(int(row["layer"]), int(row["head"])) for _, row in looks.iterrows()]


def controls(
    read: QueriesKeys, given: FilterPrompts, layer: int, head: int, part: Subspace, *, seed: int
) -> Bases:
    """A head's subspace, and what it is held against, from the prompts that it is from.

    Random subspaces have its rank. So have those of permuted labels, which are made as it is, but
    of a word drawn in place of the one asked for: they lie where keys vary.
    """
    drawn = permuted(read, given, layer, head, part, seed=seed)
    draw = own_seed(seed, "random", layer, head)
    return {
        CATEGORY: [part.key],
        PERMUTED: [other.key for other in drawn],
        RANDOM: random_subspaces(len(part.key), part.rank, N_DRAWS, seed=draw),
    }


def permuted(
    read: QueriesKeys, given: FilterPrompts, layer: int, head: int, part: Subspace, *, seed: int
) -> list[Subspace]:
    """Subspaces of a head's rank, made as its own is, for labels that mean nothing."""
    q, k = at_the_words(read, given, layer, head)
    q = q - q.mean(0)
    g = torch.Generator().manual_seed(own_seed(seed, "permuted", layer, head))
    drawn = []
    for _ in range(N_DRAWS):
        order = torch.rand(k.shape[:2], generator=g).argsort(1)
        shuffled = k.gather(1, order.unsqueeze(2).expand_as(k))
        u, _, vt = torch.linalg.svd(q.T @ (shuffled[:, 0] - shuffled[:, 1:].mean(1)))
        drawn.append(replace(part, query=u[:, : part.rank], key=vt[: part.rank].T))
    return drawn


def limits(part: Subspace) -> Bases:
    """The whole key, which is the most that a swap can do, and all of it but the category."""
    d, rank = part.key.shape
    rest = torch.linalg.qr(torch.cat([part.key, torch.eye(d)], 1))[0][:, rank:d]
    return {WHOLE: [torch.eye(d)], BUT_CATEGORY: [rest]}


def swaps(
    read: QueriesKeys,
    given: FilterPrompts,
    layer: int,
    head: int,
    bases: Mapping[str, Sequence[Tensor]],
    *,
    seed: int,
) -> pd.DataFrame:
    """The word asked for swaps a part of its key with another word, drawn for each prompt.

    Returns:
        One row per part and prompt: part, prompt, change (of attention, -1 to 1) and flipped
        (whether the largest of the five words' logits went over), means over a part's subspaces.
    """
    import pandas as pd

    q, k = at_the_words(read, given, layer, head)
    first = torch.zeros(len(q), dtype=torch.long)
    g = torch.Generator().manual_seed(own_seed(seed, "other word"))
    other = torch.randint(1, k.shape[1], (len(q),), generator=g)
    scaling = read.scaling[read.layers.index(layer)]
    tables = []
    for name, subspaces in bases.items():
        done = [
            swap(q, k, first, other, basis, scaling=scaling, softcap=read.softcap)
            for basis in subspaces
        ]
        tables.append(
            pd.DataFrame(
                {
                    "part": name,
                    "prompt": range(len(q)),
                    "change": torch.stack([x.change for x in done]).mean(0).double(),
                    "flipped": torch.stack([x.flipped.double() for x in done]).mean(0),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def survivors(
    found: QueriesKeys,
    chosen_on: FilterPrompts,
    read: QueriesKeys,
    given: FilterPrompts,
    parts: Mapping[tuple[int, int], Subspace],
    *,
    seed: int,
) -> pd.DataFrame:
    """Every head's swap on prompts of other words, beside both nulls.

    Args:
        found: queries and keys that the subspaces are from, to permute their labels.
        chosen_on: their prompts.
        read: of the other half.
        given: the other half.
        parts: of :func:`find`.
        seed: of draws.

    Returns:
        One row per head: layer, head, a mean change for each part, and p_value: that the category
        changes attention no more than permuted labels do, by a one-sided t test over prompts, with
        Holm's correction over heads. NaN, and no change, where the rank is 0.
    """
    import pandas as pd
    from scipy.stats import ttest_1samp

    rows = []
    for (layer, head), part in parts.items():
        row: dict[str, Any] = {"layer": layer, "head": head, "rank": part.rank, "p": 1.0}
        row |= dict.fromkeys((CATEGORY, PERMUTED, RANDOM), 0.0)
        if part.rank:
            bases = controls(found, chosen_on, layer, head, part, seed=seed)
            table = swaps(read, given, layer, head, bases, seed=seed)
            change = table.pivot(index="prompt", columns="part", values="change")
            more = change[CATEGORY] - change[PERMUTED]
            row |= change.mean().to_dict()
            row["p"] = float(ttest_1samp(more, 0, alternative="greater").pvalue)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_value=holm(table.pop("p")))


def named_parts(read: QueriesKeys, given: FilterPrompts, layer: int, head: int) -> list[Subspace]:
    """The category's subspace, then that of being a word of the list and no comma behind one."""
    q, k = read.of(layer, head)
    words = torch.tensor(given.word_at)
    own, others = at_the_words(read, given, layer, head)[1].split([1, len(words) - 1], 1)
    category = contrastive(q[:, -1], own, others, centred=True, name=CATEGORY)
    return [category, contrastive(q[:, -1], k[:, words], k[:, words + 1], name=LISTED)]


def over_a_prompt(
    read: QueriesKeys,
    given: FilterPrompts,
    layer: int,
    head: int,
    parts: Sequence[Subspace],
    strings: Sequence[str],
) -> pd.DataFrame:
    """Attention of the last token over one prompt, and its logits split into named parts.

    The prompt is the one in which the word asked for gets the median of attention. The first token,
    where much of it rests, is left out. Each part is less its mean, which the softmax takes away.

    Returns:
        One row per token: token, attention, asked (whether it is the word), and a column per part.
    """
    import pandas as pd

    own = _attention(read, given, layer, head)
    n = int(own.argsort()[len(own) // 2])
    q, k = read.of(layer, head)
    split = attribute(q[n, -1:], k[n, 1:], parts)
    scaling = read.scaling[read.layers.index(layer)]
    columns = {name: scaling * (x[0] - x[0].mean()) for name, x in split.items()}
    return pd.DataFrame(
        {
            "token": [strings[i] for i in given.tokens[n, 1:]],
            "attention": read.logits(layer, head)[n, -1].softmax(0)[1:],
            "asked": torch.arange(1, len(k[n])) == given.word_at[given.asked[n]],
        }
        | columns
    )


def _attention(
    read: QueriesKeys, given: FilterPrompts, layer: int, head: int
) -> Float[Tensor, " n"]:
    """Of each prompt's last token to the word that is asked for; keys are read at all positions."""
    a = read.logits(layer, head)[:, -1].softmax(-1)
    return a.gather(1, torch.tensor(given.word_at)[given.asked].unsqueeze(1)).squeeze(1)


def channels(
    model: Model,
    read: QueriesKeys,
    given: FilterPrompts,
    layer: int,
    head: int,
    part: Subspace,
    *,
    n_null: int,
    seed: int,
) -> pd.DataFrame:
    """The first vocabulary channel of what a head's query and key have of each category (ours).

    A category's direction is the mean query that asks for it, or the mean key of its words, less
    the mean of all, in the subspace; pulled back to the residual stream. The null: random
    directions of the same head.

    Returns:
        One row per side and category: layer, head, side, category, tokens, p_value, q_value.
    """
    import pandas as pd

    q, k = at_the_words(read, given, layer, head)
    vocabulary = model.vocabulary(layer)
    rows = []
    for side, x, basis in (("query", q, part.query), ("key", k[:, 0], part.key)):
        means = torch.stack([x[given.category == c].mean(0) for c in range(len(CATEGORIES))])
        inside = basis @ basis.T @ (means - means.mean(0)).T
        at = {"layer": layer, "head": head, "side": side}
        own, null = (
            decompose(directions, vocabulary, n_channels=1, seed=seed, progress=False)
            for directions in (
                pull_back(model, torch.nn.functional.normalize(inside, dim=0), **at),
                random_directions(model, n_null, seed=seed, **at),
            )
        )
        found = calibrate(own, null)
        rows += [
            at
            | {"category": name, "tokens": " ".join(t for t, _ in found.top_tokens(c, 0, k=6))}
            | {"p_value": float(found.p_value[c, 0]), "q_value": float(found.q_value[c, 0])}
            for c, name in enumerate(CATEGORIES)
        ]
    return pd.DataFrame(rows)
