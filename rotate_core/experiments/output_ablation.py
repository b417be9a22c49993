"""Does a channel of out promote its own tokens? Ablation on the output side (chapter 9).

Where a neuron is active it adds ``a v`` to what its MLP writes. Taking ``alpha_k c_k`` out of v
changes that by ``-a alpha_k c_k``, at this position only; the rest of the model runs on. With T_k
the tokens of channel k's tail, and ``Delta(T)`` the mean drop of their logits, signed by a and by
the side of the tail that each token is on:

    faithfulness_k  = Delta(T_k) - mean over other channels j of Delta(T_j), frequency-matched
    auroc_k         = chance that a token of T_k drops more than another token of the vocabulary
    completeness    = share of the neuron's effect that is left when it writes sum_k alpha_k c_k

These are our definitions; the paper's are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.output_logits import active_contexts, drops_at_each, logit_drops
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import heaviest, signed_z, token_signs
from rotate_core.text.edit import contributions

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

__all__ = ["RULES", "Rule", "active_contexts", "auroc_of", "logit_drops", "output_ablation"]


@dataclass(frozen=True)
class Rule:
    """The thresholds of the output side: fixed before results were looked at."""

    n_tokens: int | None = 50
    """Tokens of a tail, the heaviest first; None: all of them."""
    threshold: float | None = None
    """z-score above which a token is in a tail; None: the channels' own."""
    positions: float = 1.0
    """Share of the positions, the strongest first."""
    n_effect: int = 50
    """Tokens that a neuron's own effect is measured on: those it moves most."""


FIXED = "as fixed"
RULES = {
    FIXED: Rule(),
    "10 tokens of a tail": Rule(n_tokens=10),
    "all tokens of a tail": Rule(n_tokens=None),
    "tails from z = 3": Rule(threshold=3.0),
    "tails from z = 5": Rule(threshold=5.0),
    "half of the positions": Rule(positions=0.5),
    "effect on 10 tokens": Rule(n_effect=10),
    "effect on 200 tokens": Rule(n_effect=200),
}
"""The rule, and others to see what depends on it: one threshold changed at a time."""


def output_ablation(
    model: PreTrainedModel,
    channels: Channels,
    layer: int,
    contexts: Int[Tensor, "n_neurons n_positions length"],
    activation: Float[Tensor, "n_neurons n_positions"],
    frequency: Float[Tensor, " d_vocab"],
    *,
    n_rotations: int = 5,
    rules: Mapping[str, Rule] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, Float[Tensor, "n_neurons n_channels d_vocab"]]:
    """Faithfulness and AUROC of each channel, completeness of each neuron, beside rotations.

    Args:
        model: a loaded transformers model.
        channels: of out vectors, of one layer; they may be matched vectors'.
        layer: their layer.
        contexts: for each neuron, texts that end where it is active, the strongest first.
        activation: its activation there.
        frequency: how often each token is in text, to match tokens by.
        n_rotations: sets of matched rotations of each neuron's channels.
        rules: thresholds by name; None: :data:`RULES`.
        seed: of the rotations.

    Returns:
        One row per channel and rule: faithfulness, auroc, and their means over rotations. A row a
        neuron and rule: completeness and its mean over rotations. And the drops of all logits by
        channel.
    """
    import pandas as pd

    rules = RULES if rules is None else rules
    d_vocab = len(channels.vocabulary.tokens)
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    channel_rows, neuron_rows, drops = [], [], []
    for i, neuron in enumerate(channels.indices):
        w = channels.weight_vectors[i]
        sets = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])  # ours first
        parts = contributions(w.expand(len(sets), -1), sets)
        variants = torch.cat([w[None], w - parts.sum(1), parts.flatten(0, 1)])
        each = drops_at_each(model, layer, contexts[i], activation[i], variants)
        at_each = torch.stack([at_one[:, :d_vocab] for at_one in each])
        z, signs = signed_z(channels, i), token_signs(channels, i)
        for share in dict.fromkeys(rule.positions for rule in rules.values()):
            delta = at_each[: max(1, round(share * len(at_each)))].mean(0)
            whole, rest = delta[0], delta[1 : 1 + len(sets)]
            by_channel = delta[1 + len(sets) :].unflatten(0, parts.shape[:2])
            if share == 1:
                drops.append(by_channel[0])
            ordered = _ordered(by_channel, signs)
            for name, rule in rules.items():
                if rule.positions != share:
                    continue
                place = {"neuron": neuron, "rule": name}
                kept = _kept(whole, rest, rule.n_effect)
                row = {"completeness": kept[0].item(), "rotation": kept[1:].mean().item()}
                neuron_rows.append(place | row)
                t = channels.settings.threshold if rule.threshold is None else rule.threshold
                own = [heaviest(row, threshold=t, n=rule.n_tokens) for row in z]
                found = _scores(by_channel, signs, own, frequency, ordered)
                channel_rows += [place | row for row in found]
    return pd.DataFrame(channel_rows), pd.DataFrame(neuron_rows), torch.stack(drops)


def _kept(
    whole: Float[Tensor, " d_vocab"], rest: Float[Tensor, "n_sets d_vocab"], n: int
) -> Float[Tensor, " n_sets"]:
    """Share of the effect on the n tokens moved most that is there without the residual."""
    top = whole.abs().topk(min(n, len(whole))).indices
    return ((whole - rest)[:, top] * whole[top].sign()).sum(1) / whole[top].abs().sum()


def _scores(
    drops: Float[Tensor, "n_sets n_channels d_vocab"],
    signs: Float[Tensor, "n_channels d_vocab"],
    own: list[Int[Tensor, " n_tokens"]],
    frequency: Float[Tensor, " d_vocab"],
    ordered: np.ndarray,
) -> list[dict[str, Any]]:
    """One row per channel that has a tail; first the neuron's own, then rotations."""
    rows = []
    for k, mine in enumerate(own):
        if not len(mine):
            continue
        pools = [(j, ids[~torch.isin(ids, mine)]) for j, ids in enumerate(own) if j != k]
        others = [(j, _matched(mine, ids, frequency)) for j, ids in pools if len(ids)]
        signed = (drops[:, k] * signs[k])[:, mine]
        score = signed.mean(1)
        if others:
            away = [(drops[:, k, ids] * signs[j, ids]).mean(1) for j, ids in others]
            score = score - torch.stack(away).mean(0)
        pairs = zip(signed.numpy(), ordered[:, k], strict=True)
        auroc = [auroc_of(positive, everything) for positive, everything in pairs]
        rows.append(
            {
                "channel": k,
                "n_tokens": len(mine),
                "faithfulness": score[0].item(),
                "faithfulness_rotation": score[1:].mean().item(),
                "auroc": auroc[0],
                "auroc_rotation": float(np.mean(auroc[1:])),
            }
        )
    return rows


def _matched(wanted: Tensor, pool: Tensor, frequency: Tensor) -> Tensor:
    """For each wanted token, the token of the pool that is most nearly as frequent in text."""
    distance = frequency[wanted].log1p()[:, None] - frequency[pool].log1p()[None, :]
    return pool[distance.abs().argmin(1)]


def _ordered(drops: Tensor, signs: Tensor) -> np.ndarray:
    """Signed drops of each set and channel in ascending order: sorted once for all rules."""
    return np.sort((drops * signs).numpy(), axis=2)


def auroc_of(positive: np.ndarray, everything: np.ndarray) -> float:
    """Chance that a positive scores above one of the rest; a tie counts half.

    Args:
        positive: scores of the positives.
        everything: scores of all, positives included, in ascending order.
    """
    n = len(positive)
    ranks = [np.searchsorted(everything, positive, side) for side in ("left", "right")]
    below = (ranks[0] + ranks[1]).sum() / 2  # of all, each positive itself counted half
    return float((below - n * n / 2) / (n * (len(everything) - n)))
