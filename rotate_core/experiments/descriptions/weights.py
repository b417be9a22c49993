"""Descriptions of a neuron as weighted tokens, read off its weights (chapter 10).

A description is at most 50 tokens with weights from 0 to 1, one for each polarity of the
activation ``a(x) = act(g . x) (u . x)``. ``act`` (SiLU, GELU) is large only where ``g . x`` is
positive and never far below 0, so a large ``|a|`` of either sign wants gate's positive side; the
sign of ``u . x`` is then the sign of a. Hence :func:`side`: of gate always the tokens that push
``g . x`` up, of in those that push ``u . x`` the way of the polarity, and of out those that the
neuron then promotes, as it writes ``a v``. Without a gate, ``a = act(u . x)`` has one polarity.

What reads text is in :mod:`.exemplars`, how a description is judged in :mod:`.trials`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.models.tokens import visible
from rotate_core.null.evidence import support
from rotate_core.null.matched import matched_rotations

BUDGET = 50
"""Tokens of a description."""
POLARITIES = {"positive": 1, "negative": -1}
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Description:
    """What makes a neuron fire in one polarity: tokens with weights, the most telling first."""

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


def side(kind: str, polarity: str) -> str:
    """Which way the product with a vector goes where the activation has a polarity."""
    sign_of(polarity)
    return "positive" if kind == "gate" else polarity


def describe(
    channels: Channels, *, polarity: str = "positive", level: float = 0.1, budget: int = BUDGET
) -> list[Description]:
    """Each neuron in a few words, from its supported channels only (the rule is ours).

    A channel is supported if its q-value is below ``level``; where the run has no null, if its
    tail's tokens stand out in the neuron's own projection (support above 1). Tokens are taken in
    turns: the first of every channel, then the second.

    Args:
        channels: of gate or in vectors (what a neuron reads), or of out (what it writes).
        polarity: "positive": tokens that push w's product up; "negative": those that push it down.
        level: of the q-value; 1 takes every channel, supported or not.
        budget: tokens at most.

    Returns:
        One for each neuron; empty where no channel is supported.

    Raises:
        ValueError: an unknown polarity.
    """
    sign = sign_of(polarity)
    if level >= 1:
        supported = torch.ones(channels.vectors.shape[:2], dtype=torch.bool)
    elif channels.q_value is not None:
        supported = channels.q_value < level
    else:
        supported = support(channels) > 1
    found = []
    for i in range(channels.n_neurons):
        lists = []
        for k in supported[i].nonzero().flatten().tolist():
            z, ids = channels.top_z[i, k], channels.top_ids[i, k]
            inside = z * sign > channels.settings.threshold
            lists.append(list(zip(ids[inside].tolist(), z[inside].abs().tolist(), strict=True)))
        found.append(of_pairs(in_turns(lists), channels.vocabulary.tokens, budget))
    return found


def from_rotations(
    channels: Channels, *, polarity: str = "positive", budget: int = BUDGET, seed: int = 0
) -> list[Description]:
    """The control: matched rotations in the place of all channels, as many tokens from each.

    A random direction at a channel's cosine has hardly a token beyond the threshold. So it gives
    its top tokens, as many as the channel has in its tail.
    """
    sign = sign_of(polarity)
    inside = (channels.top_z * sign > channels.settings.threshold).sum(-1)
    projection = channels.vocabulary.projection
    allowed = channels.vocabulary.token_weights.to(projection.device) > 0
    found = []
    for i, directions in enumerate(matched_rotations(channels, 1, seed=seed)[0]):
        z = _z_scores(directions.to(projection) @ projection) * sign
        z.masked_fill_(~allowed, -torch.inf)
        lists = []
        for row, n in zip(z, inside[i].tolist(), strict=True):
            top = row.topk(n)
            lists.append(list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
        found.append(of_pairs(in_turns(lists), channels.vocabulary.tokens, budget))
    return found


def from_projection(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"],
    tokens: Sequence[str],
    *,
    polarity: str = "positive",
    budget: int = BUDGET,
) -> list[Description]:
    """VocabProj: the top of ``U^T w`` itself, no rotation. Tokens of weight 0 do not compete."""
    scores = (w.to(projection) @ projection) * sign_of(polarity)
    return from_scores(scores, token_weights, tokens, budget=budget)


def from_scores(
    scores: Float[Tensor, "n_neurons d_vocab"],
    token_weights: Float[Tensor, " d_vocab"],
    tokens: Sequence[str],
    *,
    budget: int = BUDGET,
) -> list[Description]:
    """The top tokens by some score, weighted by its z-score; those of weight 0 do not compete."""
    z = _z_scores(scores).masked_fill(token_weights.to(scores.device) == 0, -torch.inf)
    top = z.topk(min(budget, z.shape[1]), dim=1)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [of_pairs(list(zip(*p, strict=True)), tokens, budget) for p in pairs]


def merge(lists: Sequence[Description], *, budget: int = BUDGET) -> Description:
    """One description of several, in turns (of a neuron's gate and in, say)."""
    words = {i: t for d in lists for i, t in zip(d.ids, d.tokens, strict=True)}
    pairs = in_turns([list(zip(d.ids, d.weights, strict=True)) for d in lists])[:budget]
    return Description(
        tuple(i for i, _ in pairs), tuple(w for _, w in pairs), tuple(words[i] for i, _ in pairs)
    )


def in_turns(lists: Sequence[Sequence[tuple[Key, float]]]) -> list[tuple[Key, float]]:
    """The first of every list, then the second, ...; what came before is left out."""
    taken: dict[Key, float] = {}
    for row in zip_longest(*lists):
        for pair in row:
            if pair is not None:
                taken.setdefault(pair[0], pair[1])
    return list(taken.items())


def of_pairs(
    pairs: Sequence[tuple[int, float]], tokens: Sequence[str], budget: int = BUDGET
) -> Description:
    """A description of (token number, weight) pairs, cut at the budget, its largest weight 1."""
    pairs = pairs[:budget]
    largest = max((w for _, w in pairs), default=1.0)
    return Description(
        ids=tuple(int(i) for i, _ in pairs),
        weights=tuple(w / largest for _, w in pairs),
        tokens=tuple(tokens[int(i)] for i, _ in pairs),
    )


def _z_scores(scores: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_vocab"]:
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


def sign_of(polarity: str) -> int:
    """1 or -1; ValueError for an unknown polarity."""
    if polarity not in POLARITIES:
        raise ValueError(f"polarity={polarity!r}: wanted one of {', '.join(POLARITIES)}")
    return POLARITIES[polarity]
