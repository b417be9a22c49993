"""Descriptions of a neuron as weighted tokens, and how well they tell when it fires (chapter 10).

A description is at most 50 tokens with weights from 0 to 1, one for each polarity of the
activation. On held-out text, the activation that it predicts at a position is the largest
``weight x kernel(token there, token described)``. Two kernels are reported, as each favours a
method: *exact* (the same token, but for case and space: favours what was read off text) and
*related* (cosine of vectors learned on the train text by PPMI and SVD; never U, which would favour
what was read off the weights). This judges lists of tokens, not prose: it is a proxy for the
paper's test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.support import support

BUDGET = 50
"""Tokens of a description."""
POLARITIES = {"positive": 1, "negative": -1}


@dataclass(frozen=True)
class Description:
    """What makes a neuron fire in one polarity: tokens with weights, the heaviest first."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    tokens: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(token.strip() for token in self.tokens[:10])


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
    if polarity not in POLARITIES:
        raise ValueError(f"polarity={polarity!r}: wanted one of {', '.join(POLARITIES)}")
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
            inside = z * POLARITIES[polarity] > channels.settings.threshold
            lists.append(list(zip(ids[inside].tolist(), z[inside].abs().tolist(), strict=True)))
        found.append(_description(_in_turns(lists), channels.vocabulary.tokens, budget))
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
    z = (w.to(projection) @ projection) * POLARITIES[polarity]
    z = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    top = z.masked_fill(token_weights == 0, -torch.inf).topk(budget, dim=1)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [_description(list(zip(*p, strict=True)), tokens, budget) for p in pairs]


def from_activations(
    activation: Float[Tensor, "n_positions n_neurons"],
    token: Int[Tensor, " n_positions"],
    document: Int[Tensor, " n_positions"],
    tokens: Sequence[str],
    *,
    polarity: str = "positive",
    n_exemplars: int = 20,
    share: float = 0.3,
    budget: int = BUDGET,
) -> list[Description]:
    """MaxAct: tokens at 0.3 of the maximum, in the 20 documents where the neuron fires most."""
    found = []
    for a in (activation * POLARITIES[polarity]).T:
        peak = torch.full((int(document.max()) + 1,), -torch.inf)
        peak = peak.scatter_reduce(0, document, a, "amax")
        exemplars = peak.topk(min(n_exemplars, len(peak))).indices
        inside = torch.isin(document, exemplars) & (a >= share * a.max()) & (a > 0)
        best: dict[int, float] = {}
        for i, value in zip(token[inside].tolist(), a[inside].tolist(), strict=True):
            best[i] = max(value, best.get(i, 0.0))
        ranked = sorted(best.items(), key=lambda item: -item[1])
        found.append(_description(ranked, tokens, budget))
    return found


@dataclass(frozen=True, eq=False)
class Kernels:
    """How alike two tokens are, from 0 to 1, in two ways."""

    form: Int[Tensor, " d_vocab"]
    """Tokens with the same number are the same but for case and space."""
    vectors: Float[Tensor, "d_vocab n_dimensions"]
    """Unit vectors learned from text; 0 for tokens that the text has too rarely."""

    @staticmethod
    def learn(
        train: Int[Tensor, "n_windows length"],
        tokens: Sequence[str],
        *,
        n_dimensions: int = 100,
        span: int = 5,
        least: int = 5,
        seed: int = 0,
    ) -> Kernels:
        """PPMI of tokens within ``span`` of each other, and its truncated SVD (Levy and Goldberg).

        Args:
            train: windows of the train text only.
            tokens: strings of the vocabulary.
            n_dimensions: of the vectors.
            span: tokens on either side that count as context.
            least: occurrences that a token needs.
            seed: of the SVD's start.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import svds

        forms: dict[str, int] = {}
        form = torch.tensor([forms.setdefault(t.strip().lower(), len(forms)) for t in tokens])
        d_vocab = len(tokens)
        pairs = [
            torch.stack([train[:, :-step].flatten(), train[:, step:].flatten()])
            for step in range(1, span + 1)
        ]
        a, b = torch.cat(pairs, 1).numpy()
        counts = coo_matrix(([1.0] * len(a), (a, b)), (d_vocab, d_vocab)).tocsr()
        counts = counts + counts.T
        seen = torch.bincount(train.flatten(), minlength=d_vocab).numpy()
        kept = (seen >= least).nonzero()[0]
        ppmi = counts[kept][:, kept].tocoo()
        total, margin = ppmi.sum(), np.asarray(ppmi.sum(0)).ravel()
        data = torch.tensor(ppmi.data * total / (margin[ppmi.row] * margin[ppmi.col])).log()
        ppmi.data = data.clamp_min(0).numpy()
        n = min(n_dimensions, len(kept) - 2)
        start = np.random.default_rng(seed).standard_normal(len(kept))
        u, s, _ = svds(ppmi, k=n, v0=start)
        vectors = torch.zeros(d_vocab, n)
        vectors[torch.from_numpy(kept)] = torch.from_numpy(u * s**0.5).float()
        norm = vectors.norm(dim=1, keepdim=True)
        return Kernels(form, vectors / norm.clamp_min(1e-12))

    def predict(
        self, description: Description, token: Int[Tensor, " n"], kernel: str
    ) -> Float[Tensor, " n"]:
        """The activation that a description predicts for each token: 0 to 1."""
        if not description.ids:
            return torch.zeros(len(token))
        ids, weights = torch.tensor(description.ids), torch.tensor(description.weights)
        if kernel == "exact":
            alike = (self.form[token][:, None] == self.form[ids][None]).float()
        else:
            same = (self.form[token][:, None] == self.form[ids][None]).float()
            alike = torch.maximum(self.vectors[token] @ self.vectors[ids].T, same).clamp_min(0)
        return (alike * weights).amax(1)


def trial(
    activation: Float[Tensor, " n_positions"],
    token: Int[Tensor, " n_positions"],
    train_threshold: float,
    *,
    n: int = 50,
    seed: int = 0,
) -> tuple[Int[Tensor, " n_chosen"], Int[Tensor, " n_chosen"]]:
    """Positions of held-out text to judge a description on, and which of them are positive.

    n positives over ten quantiles above the train text's 99th percentile; n negatives below the
    median; n hard negatives below the median whose token is as frequent as a positive's.

    Returns:
        Positions and labels (1 or 0); empty where there are fewer than ten positives.
    """
    generator = torch.Generator().manual_seed(seed)
    above = (activation > max(train_threshold, 0)).nonzero().flatten()
    below = (activation <= activation.median()).nonzero().flatten()
    if len(above) < 10:
        return above[:0], above[:0]
    ranked = above[activation[above].argsort()]
    positives = []
    for part in ranked.tensor_split(10):
        order = torch.randperm(len(part), generator=generator)[: n // 10]
        positives.append(part[order])
    positive = torch.cat(positives)
    negative = below[torch.randperm(len(below), generator=generator)[:n]]
    count = torch.bincount(token, minlength=int(token.max()) + 1)[token].float().log()
    pool = below[torch.randperm(len(below), generator=generator)[: 20 * n]]
    pool = pool[~torch.isin(pool, negative)]
    distance = (count[positive][:, None] - count[pool][None]).abs()
    hard = pool[distance.topk(min(3, len(pool)), dim=1, largest=False).indices.flatten()].unique()
    hard = hard[torch.randperm(len(hard), generator=generator)[:n]]
    chosen = torch.cat([positive, negative, hard])
    label = torch.zeros(len(chosen), dtype=torch.long)
    label[: len(positive)] = 1
    return chosen, label


def auroc(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    positive, negative = score[label == 1], score[label == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    above = (positive[:, None] > negative[None]).double()
    ties = (positive[:, None] == negative[None]).double()
    return (above + ties / 2).mean().item()


def merge(lists: Sequence[Description], *, budget: int = BUDGET) -> Description:
    """One description of several, in turns (of a neuron's gate and in, say)."""
    words = {i: t for d in lists for i, t in zip(d.ids, d.tokens, strict=True)}
    pairs = _in_turns([list(zip(d.ids, d.weights, strict=True)) for d in lists])[:budget]
    return Description(
        tuple(i for i, _ in pairs), tuple(w for _, w in pairs), tuple(words[i] for i, _ in pairs)
    )


def wins(
    scores: Mapping[str, Sequence[float]], ours: str, other: str, *, margin: float = 0.01
) -> tuple[int, int, int]:
    """Neurons where ours is better by more than the margin, as good, worse."""
    gaps = [a - b for a, b in zip(scores[ours], scores[other], strict=True) if a == a and b == b]
    won, lost = sum(g > margin for g in gaps), sum(g < -margin for g in gaps)
    return won, len(gaps) - won - lost, lost


def _in_turns(lists: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    taken: dict[int, float] = {}
    for row in zip_longest(*lists):
        for pair in row:
            if pair is not None:
                taken.setdefault(pair[0], pair[1])
    return list(taken.items())


def _description(
    pairs: Sequence[tuple[int, float]], tokens: Sequence[str], budget: int
) -> Description:
    pairs = pairs[:budget]
    largest = max((w for _, w in pairs), default=1.0)
    return Description(
        ids=tuple(int(i) for i, _ in pairs),
        weights=tuple(w / largest for _, w in pairs),
        tokens=tuple(tokens[int(i)] for i, _ in pairs),
    )
