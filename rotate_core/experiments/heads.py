"""Heads of a language model: do they attend by a subspace of their keys (chapter 16)?

On one half of the prompts a head's subspace of the category that is asked for is found and heads
are chosen. On the other half, of other words, they are tested: two keys swap what they have in the
subspace.

Source: arXiv:2602.04752 for the subspace and the swap. Ours: all categories are contrasted at once,
with centred queries; subspaces of permuted labels beside random ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.experiments.heads_prompts import Half, Head
from rotate_core.heads import (
    Subspace,
    attribute,
    contrastive,
    random_subspaces,
    swap,
)
from rotate_core.null.matched import own_seed
from rotate_core.verdicts.intervals import holm

if TYPE_CHECKING:
    import pandas as pd

CATEGORY, LISTED = "category", "a word of the list"
PERMUTED, RANDOM = "labels permuted", "random"
WHOLE, BUT_CATEGORY = "whole key", "all but the category"
N_DRAWS = 10
"""Random subspaces, and subspaces of permuted labels, beside each."""
Bases = dict[str, list[Float[Tensor, "d rank"]]]
"""By what is swapped: subspaces of keys over which a swap's effect is averaged."""


def find(
    half: Half, *, n_permutations: int = 99, seed: int = 0
) -> tuple[pd.DataFrame, dict[Head, Subspace]]:
    """The category's subspace in every head that was read.

    Returns:
        One row per head: layer, head, rank, energy_rank, p_value, attention (of the last token to
        the word asked for, of all its attention) and change (of the two words' attention, by a swap
        in the very prompts that the subspace is from). And the subspaces.
    """
    import pandas as pd

    rows, parts = [], {}
    for layer in half.read.layers:
        for number in range(half.read.n_heads):
            head = layer, number
            q, k = half.at_the_words(head)
            part = parts[head] = contrastive(
                q, k[:, :1], k[:, 1:],
                centred=True, n_permutations=n_permutations, seed=seed, name=CATEGORY,
            )  # fmt: skip
            own = swaps(half, head, {CATEGORY: [part.key]}, seed=seed)
            rows.append(
                {"layer": layer, "head": number, "rank": part.rank}
                | {"energy_rank": part.energy_rank, "p_value": part.p_value}
                | {"attention": float(half.attention(head).mean())}
                | {"change": own["change"].mean()}
            )
    return pd.DataFrame(rows), parts


def choose(found: pd.DataFrame, n: int, *, length: int) -> list[Head]:
    """The heads that a swap changes most, those first that look at the word that is asked for.

    The change is of what two words get *together*, however little that is. So heads come first
    where the word gets as much as it would if all tokens got the same, ``1 / length``. One whose
    subspace is of rank 0 is not chosen.
    """
    there = found[found["rank"] > 0]
    looks = there.assign(looks=there["attention"] >= 1 / length)
    best = looks.sort_values(["looks", "change"], ascending=False).head(n)
    return [(int(row["layer"]), int(row["head"])) for _, row in best.iterrows()]


def permuted(half: Half, head: Head, part: Subspace, *, seed: int) -> list[Subspace]:
    """Subspaces of a head's rank, made as its own is, for labels that mean nothing."""
    q, k = half.at_the_words(head)
    q = q - q.mean(0)
    g = torch.Generator().manual_seed(own_seed(seed, "permuted", *head))
    drawn = []
    for _ in range(N_DRAWS):
        order = torch.rand(k.shape[:2], generator=g).argsort(1)
        shuffled = k.gather(1, order.unsqueeze(2).expand_as(k))
        u, _, vt = torch.linalg.svd(q.T @ (shuffled[:, 0] - shuffled[:, 1:].mean(1)))
        drawn.append(replace(part, query=u[:, : part.rank], key=vt[: part.rank].T))
    return drawn


def controls(half: Half, head: Head, part: Subspace, *, seed: int) -> Bases:
    """A head's subspace and the two that it is held against, of equal rank.

    Random ones, as in the paper; and those of permuted labels, which lie where keys vary.
    """
    draw = own_seed(seed, "random", *head)
    return {
        CATEGORY: [part.key],
        PERMUTED: [other.key for other in permuted(half, head, part, seed=seed)],
        RANDOM: random_subspaces(len(part.key), part.rank, N_DRAWS, seed=draw),
    }


def limits(part: Subspace) -> Bases:
    """The whole key, which is the most that a swap can do, and all of it but the category."""
    d, rank = part.key.shape
    rest = torch.linalg.qr(torch.cat([part.key, torch.eye(d)], 1))[0][:, rank:d]
    return {WHOLE: [torch.eye(d)], BUT_CATEGORY: [rest]}


def swaps(
    half: Half, head: Head, bases: Mapping[str, Sequence[Tensor]], *, seed: int
) -> pd.DataFrame:
    """The word asked for swaps a part of its key with another word, drawn for each prompt.

    Returns:
        One row per part and prompt: part, prompt, change (of attention, -1 to 1) and flipped
        (whether the largest of the five words' logits went over), means over a part's subspaces.
    """
    import pandas as pd

    q, k = half.at_the_words(head)
    asked = torch.zeros(len(q), dtype=torch.long)
    g = torch.Generator().manual_seed(own_seed(seed, "other word"))
    other = torch.randint(1, k.shape[1], (len(q),), generator=g)
    scaling, softcap = half.scaling(head), half.read.softcap
    tables = []
    for name, subspaces in bases.items():
        done = [
            swap(q, k, asked, other, basis, scaling=scaling, softcap=softcap) for basis in subspaces
        ]
        means = {
            "change": torch.stack([x.change.double() for x in done]).mean(0),
            "flipped": torch.stack([x.flipped.double() for x in done]).mean(0),
        }
        tables.append(pd.DataFrame({"part": name, "prompt": range(len(q))} | means))
    return pd.concat(tables, ignore_index=True)


def swaps_of(
    first: Half, second: Half, heads: Sequence[Head], parts: Mapping[Head, Subspace], *, seed: int
) -> pd.DataFrame:
    """:func:`swaps` of some heads, of their subspace, both nulls and both limits.

    Args:
        first: what the subspaces are from; its labels are permuted.
        second: the half that is tested.
        heads: such as :func:`choose` gives; none of them: no rows.
        parts: of :func:`find`.
        seed: of draws.
    """
    import pandas as pd

    tables = [
        swaps(
            second,
            head,
            controls(first, head, parts[head], seed=seed) | limits(parts[head]),
            seed=seed,
        )
        for head in heads
    ]
    columns = ["part", "prompt", "change", "flipped"]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns, dtype=float)


def survivors(
    first: Half, second: Half, parts: Mapping[Head, Subspace], *, seed: int
) -> pd.DataFrame:
    """Every head's swap on prompts of other words, beside both nulls.

    Args:
        first: what the subspaces are from; its labels are permuted.
        second: the other half.
        parts: of :func:`find`.
        seed: of draws.

    Returns:
        One row per head: layer, head, rank, a mean change for each part, and p_value: that the
        category changes attention no more than permuted labels do, by a one-sided t test over
        prompts, with Holm's correction over heads. 1, and no change, where the rank is 0.
    """
    import pandas as pd
    from scipy.stats import ttest_1samp

    rows = []
    for head, part in parts.items():
        row: dict[str, Any] = {"layer": head[0], "head": head[1], "rank": part.rank, "p": 1.0}
        row |= dict.fromkeys((CATEGORY, PERMUTED, RANDOM), 0.0)
        if part.rank:
            table = swaps(second, head, controls(first, head, part, seed=seed), seed=seed)
            change = table.pivot(index="prompt", columns="part", values="change")
            more = change[CATEGORY] - change[PERMUTED]
            row |= change.mean().to_dict()
            row["p"] = float(ttest_1samp(more, 0, alternative="greater").pvalue)
        rows.append(row)
    heads = pd.DataFrame(rows)
    return heads.assign(p_value=holm(heads.pop("p")))


def named_parts(half: Half, head: Head, category: Subspace) -> list[Subspace]:
    """The category's subspace, then that of being a word of the list and no comma behind one."""
    q, k = half.read.of(*head)
    words = torch.tensor(half.given.word_at)
    return [category, contrastive(q[:, -1], k[:, words], k[:, words + 1], name=LISTED)]


def over_a_prompt(
    half: Half, head: Head, parts: Sequence[Subspace], strings: Sequence[str]
) -> pd.DataFrame:
    """Attention of the last token over one prompt, and its logits split into named parts.

    The prompt is the one in which the word asked for gets the median of attention. The first token,
    where much of it rests, is left out. Each part is less its mean, which the softmax takes away.

    Returns:
        One row per token: token, attention, asked (whether it is the word), and a column per part.
    """
    import pandas as pd

    own, given = half.attention(head), half.given
    n = int(own.argsort()[len(own) // 2])
    q, k = half.read.of(*head)
    split = attribute(q[n, -1:], k[n, 1:], parts)
    columns = {name: half.scaling(head) * (x[0] - x[0].mean()) for name, x in split.items()}
    return pd.DataFrame(
        {
            "token": [strings[i] for i in given.tokens[n, 1:]],
            "attention": half.read.logits(*head)[n, -1].softmax(0)[1:],
            "asked": torch.arange(1, len(k[n])) == given.word_at[given.asked[n]],
        }
        | columns
    )


def shared_queries(half: Half, head: Head, part: Subspace, *, seed: int) -> float:
    """Mean squared cosine of the category's directions of queries with those of permuted labels."""
    overlaps = [
        (part.query.T @ other.query).square().sum() / part.rank
        for other in permuted(half, head, part, seed=seed)
    ]
    return float(torch.stack(overlaps).mean())
