"""Ablation on the output side: logits of a channel's own tokens without it (chapter 9).

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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.output_logits import active_contexts, logit_drops
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import heaviest, signed_z
from rotate_core.text.edit import contributions

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.text.corpus import Windows


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
    "effect on 10 tokens": Rule(n_effect=10),
    "effect on 200 tokens": Rule(n_effect=200),
    "half of the positions": Rule(positions=0.5),
}
"""The rule, and others to see what depends on it: one threshold changed at a time."""


def output_ablation(
    model: PreTrainedModel,
    channels: Channels,
    windows: Windows,
    activation: Float[Tensor, "n_windows length n_neurons"],
    *,
    n_positions: int = 4,
    context: int = 32,
    n_rotations: int = 5,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Faithfulness and AUROC of each channel, completeness of each neuron, beside rotations.

    Args:
        model: a loaded transformers model.
        channels: of out vectors, of one layer; they may be matched vectors'.
        windows: of text.
        activation: what the vectors are written with, at every position.
        n_positions: for each neuron, as :func:`active_contexts` chooses them.
        context: tokens up to a position, itself included.
        n_rotations: sets of matched rotations of each neuron's channels.
        seed: of the rotations.

    Returns:
        One row per channel and rule of :data:`RULES`: faithfulness, auroc, and their means over
        rotations. And one row per neuron and rule: completeness and its mean over rotations.
    """
    import pandas as pd

    assert channels.layer is not None
    contexts, at_end = active_contexts(windows, activation, n=n_positions, length=context)
    d_vocab = len(channels.vocabulary.tokens)
    frequency = torch.bincount(windows.tokens.flatten(), minlength=d_vocab).float()
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    channel_rows, neuron_rows = [], []
    for i, (neuron, w) in enumerate(zip(channels.indices, channels.weight_vectors, strict=True)):
        sets = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])  # ours first
        parts = contributions(w.expand(len(sets), -1), sets)
        variants = torch.cat([w[None], w - parts.sum(1), parts.flatten(0, 1)])
        at_each = logit_drops(model, channels.layer, contexts[i], at_end[i], variants)
        z, signs = signed_z(channels, i)
        for share in dict.fromkeys(rule.positions for rule in RULES.values()):
            drops = at_each[: max(1, round(share * n_positions)), :, :d_vocab].mean(0)
            whole, rest = drops[0], drops[1 : 1 + len(sets)]
            by_channel = drops[1 + len(sets) :].unflatten(0, parts.shape[:2])
            ordered = np.sort((by_channel * signs).numpy(), axis=2)  # once for all rules
            for name, rule in RULES.items():
                if rule.positions != share:
                    continue
                labels = {"neuron": neuron, "rule": name}
                kept = _completeness(whole, rest, rule.n_effect)
                row = {"completeness": kept[0].item(), "rotation": kept[1:].mean().item()}
                neuron_rows.append(labels | row)
                t = channels.settings.threshold if rule.threshold is None else rule.threshold
                tails = [heaviest(row, threshold=t, n=rule.n_tokens) for row in z]
                scored = _scores(by_channel, signs, tails, frequency, ordered)
                channel_rows += [labels | row for row in scored]
    return pd.DataFrame(channel_rows), pd.DataFrame(neuron_rows)


def _completeness(
    whole: Float[Tensor, " d_vocab"], rest: Float[Tensor, "n_sets d_vocab"], n: int
) -> Float[Tensor, " n_sets"]:
    """Share of the effect on the n tokens moved most that is there without the residual."""
    top = whole.abs().topk(min(n, len(whole))).indices
    return ((whole - rest)[:, top] * whole[top].sign()).sum(1) / whole[top].abs().sum()


def _scores(
    drops: Float[Tensor, "n_sets n_channels d_vocab"],
    signs: Float[Tensor, "n_channels d_vocab"],
    tails: list[Int[Tensor, " n_tokens"]],
    frequency: Float[Tensor, " d_vocab"],
    ordered: Float[np.ndarray, "n_sets n_channels d_vocab"],
) -> list[dict[str, Any]]:
    """One row per channel that has a tail; the first set is the neuron's own, then rotations."""
    rows = []
    for k, own in enumerate(tails):
        if not len(own):
            continue
        signed = drops[:, k, own] * signs[k, own]
        score = signed.mean(1)
        pools = [(j, ids[~torch.isin(ids, own)]) for j, ids in enumerate(tails) if j != k]
        others = [(j, _as_frequent(own, ids, frequency)) for j, ids in pools if len(ids)]
        if away := [(drops[:, k, ids] * signs[j, ids]).mean(1) for j, ids in others]:
            score = score - torch.stack(away).mean(0)
        aurocs = [auroc(*pair) for pair in zip(signed.numpy(), ordered[:, k], strict=True)]
        rows.append(
            {
                "channel": k,
                "n_tokens": len(own),
                "faithfulness": score[0].item(),
                "faithfulness_rotation": score[1:].mean().item(),
                "auroc": aurocs[0],
                "auroc_rotation": float(np.mean(aurocs[1:])),
            }
        )
    return rows


def _as_frequent(wanted: Tensor, pool: Tensor, frequency: Tensor) -> Tensor:
    """For each wanted token, the token of the pool that is most nearly as frequent in text."""
    distance = frequency[wanted].log1p()[:, None] - frequency[pool].log1p()
    return pool[distance.abs().argmin(1)]


def auroc(positive: np.ndarray, ordered: np.ndarray) -> float:
    """Chance that a positive scores above one of the rest; a tie counts half.

    By look-up in the scores of all (positives included, ascending), which are sorted once: to rank
    a vocabulary takes scipy's rankdata thirty times as long, and mannwhitneyu does so for each set.
    """
    n = len(positive)
    below = sum(np.searchsorted(ordered, positive, side).sum() for side in ("left", "right")) / 2
    return float((below - n * n / 2) / (n * (len(ordered) - n)))
