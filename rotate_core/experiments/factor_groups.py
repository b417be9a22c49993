"""Groups of features: a tree of days and months, core and exclusive neurons (chapter 14).

Source: arXiv:2506.10920, section on hierarchies, by notes: amplifying the neurons that the features
of all days share raises every day's logit, those of one day's feature alone that day's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries import Factors
from rotate_core.dictionaries.hierarchy import Hierarchy
from rotate_core.experiments.concept_sets import DAYS, MONTHS
from rotate_core.experiments.detection import auroc
from rotate_core.experiments.steering_task import last_logits
from rotate_core.null.matched import own_seed
from rotate_core.text import Activations, added
from rotate_core.text.sites import hook_at
from rotate_core.text.steering import widened

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GROUPS = {"days": DAYS, "months": MONTHS}
BATCH = 128
"""Prompts that pass the model together."""
PROMPTS = (
    "I think that the next meeting is in",
    "We will see each other again on",
    "The shop is closed every",
    "She was born on a",
    "It all began one",
    "They plan to come back by next",
)


def names_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The days and months that are one token, with a space in front."""
    ids = {
        name: tokenizer(f" {name}", add_special_tokens=False).input_ids for name in DAYS + MONTHS
    }
    return {name: tokens[0] for name, tokens in ids.items() if len(tokens) == 1}


def named(x: Activations, names: dict[str, int]) -> Activations:
    """The tokens that are one of the names."""
    return x.take(torch.isin(x.token_ids, torch.tensor(list(names.values()))))


def features_of(factors: Factors, x: Activations, names: dict[str, int]) -> pd.DataFrame:
    """For each name, the feature that tells its tokens from those of its group best.

    Args:
        factors: whose coefficients are those of x's tokens.
        x: tokens that are names.
        names: token of each name.

    Returns:
        One row per name: group, name, feature, auroc.
    """
    import pandas as pd

    rows = []
    for group, members in GROUPS.items():
        there = [name for name in members if name in names]
        inside = torch.isin(x.token_ids, torch.tensor([names[name] for name in there]))
        coefficients, tokens = factors.coefficients[inside], x.token_ids[inside].numpy()
        for name in there:
            area = auroc(coefficients, tokens == names[name])
            rows.append((group, name, int(area.argmax()), float(area.max())))
    return pd.DataFrame(rows, columns=["group", "name", "feature", "auroc"])


def purity(tree: Hierarchy, x: Activations, *, seed: int, n_null: int = 1000) -> pd.DataFrame:
    """Does a feature of features keep to days or to months?

    A feature of the finest level is of the group that holds most of its coefficients. A parent's
    children agree as far as the larger of their two groups goes.

    Returns:
        One row per parent of the second level with two children or more: parent, n, purity, null
        (its mean over children whose groups are permuted).
    """
    import pandas as pd

    fine = tree.levels[0].coefficients
    days = torch.tensor([title_of(x, i) in DAYS for i in range(len(x))])
    of_day = (fine[days].sum(0) / fine.sum(0).clamp_min(1e-12) > days.float().mean()).numpy()
    edges = tree.edges()
    edges = edges[edges.level == 1]
    generator = np.random.default_rng(own_seed(seed, "purity"))
    rows = []
    for parent, part in edges.groupby("parent"):
        n = len(part)
        null = [larger(generator.permutation(of_day)[:n]) for _ in range(n_null)]
        rows.append((parent, n, larger(of_day[part.child]), float(np.mean(null))))
    return pd.DataFrame(rows, columns=["parent", "n", "purity", "null"])


def larger(of_day: np.ndarray) -> float:
    """The share of the larger of two groups."""
    return float(max(of_day.mean(), 1 - of_day.mean()))


def title_of(x: Activations, row: int) -> str:
    """The name that a token is."""
    return x.context(row, 0).token.strip()


def neuron_sets(
    factors: Factors, features: pd.DataFrame
) -> dict[tuple[str, str], Float[Tensor, " d"]]:
    """What is added to amplify the core of a group, or what is exclusive to one of its members.

    Core neurons are in the supports of at least half of the group's different features; exclusive
    ones in one alone. A feature that several members share is exclusive to none of them.

    Returns:
        By group and "core" or a member: the features' mean values at those neurons, of length 1.
        Empty sets are left out.
    """
    sets = {}
    for group, part in features.groupby("group", sort=False):
        different = part.feature.unique()
        uses = (factors.vectors[different] != 0).sum(0)
        mean = factors.vectors[different].mean(0)
        sets[group, "core"] = mean * (uses >= max(2, len(different) / 2))
        alone = part.drop_duplicates("feature", keep=False)
        for name, feature in zip(alone.name, alone.feature, strict=True):
            sets[group, name] = factors.vectors[feature] * (uses == 1)
    return {key: v / v.norm() for key, v in sets.items() if v.any()}


@torch.no_grad()
def logit_changes(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    vectors: Float[Tensor, "m d_mlp"],
    tokens: Sequence[int],
    *,
    size: float,
    prompts: Sequence[str] = PROMPTS,
) -> Float[Tensor, "m n_tokens"]:
    """Mean change of the names' logits when a vector is added behind the nonlinearity.

    At every position of the prompts; less the mean change over the vocabulary, which no probability
    sees.

    Args:
        network: a loaded model.
        tokenizer: its own.
        layer: from 0.
        vectors: of length 1.
        tokens: the names.
        size: how much of a vector is added, in the activations' unit.
        prompts: averaged over.
    """
    changes = torch.zeros(len(vectors), len(tokens))
    for prompt in prompts:
        ids: Int[Tensor, "1 length"] = tokenizer(prompt, return_tensors="pt").input_ids

        def logits(ids: Tensor = ids) -> Float[Tensor, "m n_tokens"]:
            out = last_logits(network, ids)
            return out[:, list(tokens)] - out.mean(1, keepdim=True)

        before = logits()
        for rows in torch.arange(len(vectors)).split(BATCH):
            # the prompt runs once up to the layer, and from there on once for each vector
            every = added(size * vectors[rows].unsqueeze(1))
            with hook_at(network, layer, "hidden", widened(every)):
                changes[rows] += (logits() - before) / len(prompts)
    return changes


def amplified(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    factors: Factors,
    features: pd.DataFrame,
    names: dict[str, int],
    layer: int,
    *,
    size: float,
    n_null: int,
    seed: int,
) -> pd.DataFrame:
    """Core and exclusive neurons amplified, beside the same values at random neurons.

    Returns:
        One row per group, set, draw of the null (-1: the set itself) and name of the group: group,
        set, draw, name, change (of its logit).
    """
    import pandas as pd

    drawn: list[tuple[str, str, int, Tensor]] = []
    for (group, which), vector in neuron_sets(factors, features).items():
        generator = torch.Generator().manual_seed(own_seed(seed, "amplified", group, which))
        null = [vector[torch.randperm(len(vector), generator=generator)] for _ in range(n_null)]
        drawn += [(group, which, i, v) for i, v in enumerate([vector, *null], start=-1)]
    rows = []
    if drawn:
        vectors = torch.stack([vector for *_, vector in drawn])
        changes = logit_changes(network, tokenizer, layer, vectors, [*names.values()], size=size)
        for (group, which, draw, _), values in zip(drawn, changes.tolist(), strict=True):
            rows += [
                (group, which, draw, name, value)
                for name, value in zip(names, values, strict=True)
                if name in GROUPS[group]
            ]
    return pd.DataFrame(rows, columns=["group", "set", "draw", "name", "change"])


def core_and_exclusive(changes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the claims are about, of the sets and of the mean of their nulls.

    Returns:
        One row per name: change, null: of its logit by its group's core. And one row per name that
        has exclusive neurons: own change less the mean change of its group's other names. No rows
        where no group has such neurons.
    """
    import pandas as pd

    def per_name(table: pd.DataFrame) -> pd.DataFrame:
        means = table.groupby(["name", "null"])["change"].mean().unstack()
        means = means.rename(columns={False: "change", True: "null"})
        return means.reindex(columns=["change", "null"]).astype(float)

    core = changes[changes.set == "core"]
    rows = []
    for (name, draw), part in changes[changes.set != "core"].groupby(["set", "draw"]):
        own = part["name"] == name
        rows.append((name, draw >= 0, part.change[own].mean() - part.change[~own].mean()))
    exclusive = pd.DataFrame(rows, columns=["name", "null", "change"])
    return per_name(core.assign(null=core.draw >= 0)), per_name(exclusive)
