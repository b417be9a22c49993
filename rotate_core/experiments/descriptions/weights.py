"""Descriptions of a neuron as weighted tokens, read off its weights (chapter 10).

A description is at most 50 tokens with weights from 0 to 1, one for each polarity of the
activation ``a(x) = act(g . x) (u . x)``. ``act`` (SiLU, GELU) is large only where ``g . x`` is
positive and never far below 0, so a large ``|a|`` of either sign wants gate's positive side; the
sign of ``u . x`` is then the sign of a. Hence :func:`product_polarity`: of gate always the tokens
that push ``g . x`` up, of in those that push ``u . x`` the way of the polarity, and of out those
that the neuron then promotes, as it writes ``a v``. Without a gate, ``a = act(u . x)`` has one
polarity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels, VocabularyLike
from rotate_core.models.tokens import visible
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.null.evidence import support
from rotate_core.null.matched import matched_rotations

BUDGET = 50
"""Tokens of a description, at most."""
POLARITIES = {"positive": 1, "negative": -1}


@dataclass(frozen=True)
class Description:
    """Tokens with weights that make a neuron fire in one polarity, the most telling first."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """The largest is 1."""
    tokens: tuple[str, ...]
    back: tuple[int, ...] = ()
    """Where each is looked for: 0 at the position itself, 1 just before it; empty: all at 0."""

    def first(self, n: int) -> Description:
        """With n tokens at most."""
        return Description(self.ids[:n], self.weights[:n], self.tokens[:n], self.back[:n])

    def __str__(self) -> str:
        """Ten tokens; ``of…`` says: after "of"."""
        back = self.back or (0,) * len(self.ids)
        words = zip(self.tokens[:10], back, strict=False)
        return " ".join(visible(token.strip() or token) + "…" * before for token, before in words)


def sign_of(polarity: str) -> int:
    """1 or -1; ValueError for an unknown polarity."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity={polarity!r}: wanted one of {', '.join(POLARITIES)}")
    return POLARITIES[polarity]


def product_polarity(kind: str, polarity: str) -> str:
    """Polarity of a vector's product with the input where the activation has the given one."""
    sign_of(polarity)
    return "positive" if kind == "gate" else polarity


def describe(
    channels: Channels, *, polarity: str = "positive", level: float = SIGNIFICANT
) -> list[Description]:
    """Each neuron in a few words, from its supported channels only (the rule is ours).

    A channel is supported if its q-value is below ``level``; where the run has no null, if its
    tail's tokens stand out in the neuron's own projection (support above 1). Tokens are taken in
    turns: the first of every channel, then the second.

    Args:
        channels: of gate or in vectors (what a neuron reads), or of out (what it writes).
        polarity: "positive": tokens that push w's product up; "negative": those that push it down.
        level: of the q-value; 1 takes every channel, supported or not.

    Returns:
        One for each neuron; empty where no channel is supported.

    Raises:
        ValueError: an unknown polarity.
    """
    signed = channels.top_z * sign_of(polarity)
    if level >= 1:
        supported = torch.ones(channels.vectors.shape[:2], dtype=torch.bool)
    elif channels.q_value is not None:
        supported = channels.q_value < level
    else:
        supported = support(channels) > 1
    descriptions = []
    for z, ids, chosen in zip(signed, channels.top_ids, supported, strict=True):
        inside = z > channels.settings.threshold
        lists = [
            list(zip(ids[k, inside[k]].tolist(), z[k, inside[k]].tolist(), strict=True))
            for k in chosen.nonzero().flatten().tolist()
        ]
        descriptions.append(in_turns(lists, channels.vocabulary.tokens))
    return descriptions


def from_rotations(
    channels: Channels, *, polarity: str = "positive", seed: int = 0
) -> list[Description]:
    """The control: matched rotations in the place of all channels, as many tokens from each.

    A random direction at a channel's cosine has hardly a token beyond the threshold. So it gives
    its top tokens, as many as the channel has in its tail.
    """
    sign, vocabulary = sign_of(polarity), channels.vocabulary
    n_tail = (channels.top_z * sign > channels.settings.threshold).sum(-1)
    descriptions = []
    rotated = matched_rotations(channels, 1, seed=seed)[0]
    for rotations, lengths in zip(rotated, n_tail, strict=True):
        scores = rotations.to(vocabulary.projection) @ vocabulary.projection * sign
        lists = zip(_top(scores, vocabulary), lengths.tolist(), strict=True)
        descriptions.append(in_turns([pairs[:n] for pairs, n in lists], vocabulary.tokens))
    return descriptions


def from_projection(
    w: Float[Tensor, "n_neurons d_model"], vocabulary: VocabularyLike, *, polarity: str = "positive"
) -> list[Description]:
    """VocabProj: the top of ``U^T w`` itself, no rotation. Tokens of weight 0 do not compete."""
    projection = vocabulary.projection
    return from_scores((w.to(projection) @ projection) * sign_of(polarity), vocabulary)


def from_scores(
    scores: Float[Tensor, "n_neurons d_vocab"], vocabulary: VocabularyLike
) -> list[Description]:
    """The top tokens by some score, weighted by its z-score; those of weight 0 do not compete."""
    return [in_turns([pairs], vocabulary.tokens) for pairs in _top(scores, vocabulary)]


def merge(*lists: Sequence[Description]) -> list[Description]:
    """One description of each neuron from several, in turns (of its gate and in, say)."""
    merged = []
    for parts in zip(*lists, strict=True):
        tokens = {i: t for d in parts for i, t in zip(d.ids, d.tokens, strict=True)}
        pairs = [list(zip(d.ids, d.weights, strict=True)) for d in parts]
        merged.append(in_turns(pairs, tokens))
    return merged


def in_turns(
    lists: Sequence[Sequence[tuple[int, float]]], tokens: Sequence[str] | Mapping[int, str]
) -> Description:
    """The first of every list, then the second, up to the budget; the largest weight becomes 1.

    Args:
        lists: (token number, weight), largest first; a token counts once, where it comes first.
        tokens: string of each token number.
    """
    taken: dict[int, float] = {}
    for turn in zip_longest(*lists):
        for token, weight in filter(None, turn):
            taken.setdefault(token, weight)
    pairs = list(taken.items())[:BUDGET]
    largest = max((weight for _, weight in pairs), default=1.0)
    return Description(
        ids=tuple(i for i, _ in pairs),
        weights=tuple(weight / largest for _, weight in pairs),
        tokens=tuple(tokens[i] for i, _ in pairs),
    )


def _top(
    scores: Float[Tensor, "n d_vocab"], vocabulary: VocabularyLike
) -> list[list[tuple[int, float]]]:
    """Number and z-score of each row's top tokens; those of weight 0 are left out."""
    z = (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)
    z.masked_fill_(vocabulary.token_weights.to(z.device) == 0, -torch.inf)
    top = z.topk(min(BUDGET, z.shape[1]))
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]
