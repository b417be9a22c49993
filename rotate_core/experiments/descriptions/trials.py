"""How well a description tells when its neuron fires: trials on held-out text, and contests.

A trial is some positions where the neuron fires and some where it does not, half of the latter with
tokens as frequent as the former's. A description predicts an activation for each
(:class:`.kernels.Kernels`), and is scored by how well that tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from rotate_core.verdicts.intervals import N_RESAMPLES, Estimate

MARGIN = 0.01
"""AUROC by which a description has to be better to win."""
LEAST_POSITIVES = 10


@dataclass(frozen=True, eq=False)
class Trial:
    """Positions to judge a description of one neuron and polarity on."""

    position: Int[Tensor, " n_chosen"]
    label: Int[Tensor, " n_chosen"]
    """1: the neuron fires; 0: it does not."""
    activation: Float[Tensor, " n_chosen"]
    """Signed by the polarity."""
    token: Int[Tensor, " n_chosen"]
    previous: Int[Tensor, " n_chosen"]
    """The token before."""

    def __len__(self) -> int:
        return len(self.position)


def trial(
    activation: Float[Tensor, " n_positions"],
    token: Int[Tensor, " n_positions"],
    previous: Int[Tensor, " n_positions"],
    train_threshold: float,
    *,
    n: int = 50,
    seed: int = 0,
) -> Trial:
    """Positions of held-out text to judge a description on, and which of them are positive.

    n positives over ten quantiles above the train text's 99th percentile; n negatives below the
    median; and below the median, for each positive, a hard negative whose token is as frequent.

    Args:
        activation: signed by the polarity, so that firing is positive.
        token: at each position.
        previous: the one before it.
        train_threshold: the percentile of the train text.
        n: of each sort.
        seed: of the draws.

    Returns:
        Of length 0 where there are fewer than ten positives.
    """
    from scipy.optimize import linear_sum_assignment

    generator = torch.Generator().manual_seed(seed)
    above = (activation > max(train_threshold, 0)).nonzero().flatten()
    below = (activation <= activation.median()).nonzero().flatten()
    if len(above) < LEAST_POSITIVES:
        none = above[:0]
        return Trial(none, none, activation[none], token[none], previous[none])
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
    hard = pool[torch.from_numpy(linear_sum_assignment(distance.numpy())[1])]
    chosen = torch.cat([positive, negative, hard])
    label = torch.zeros(len(chosen), dtype=torch.long)
    label[: len(positive)] = 1
    return Trial(chosen, label, activation[chosen], token[chosen], previous[chosen])


def auroc(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    positive, negative = score[label == 1], score[label == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    above = (positive[:, None] > negative[None]).double()
    ties = (positive[:, None] == negative[None]).double()
    return (above + ties / 2).mean().item()


def best_threshold(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """Where to cut for the best balanced accuracy: halfway between two scores that there are."""
    values = score.unique()
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    above = (score > cuts[:, None]).double()  # all cuts at once: this is most of a judge's time
    hits, false = above[:, label == 1].mean(1), above[:, label == 0].mean(1)
    return cuts[int(np.argmax(((hits + 1 - false) / 2).numpy()))].item()


def balanced_accuracy(
    score: Float[Tensor, " n"], label: Int[Tensor, " n"], threshold: float
) -> float:
    """Mean of the shares of positives above and of negatives not above the threshold."""
    above = (score > threshold).double()
    hits, false = above[label == 1].mean(), above[label == 0].mean()
    return ((hits + 1 - false) / 2).item()


def pearson(score: Float[Tensor, " n"], activation: Float[Tensor, " n"]) -> float:
    """Correlation of predicted and true activation; 0 where the prediction is constant."""
    if score.unique().numel() < 2:
        return 0.0
    return torch.corrcoef(torch.stack([score.double(), activation.double()]))[0, 1].item()


def scores(
    validation: tuple[Float[Tensor, " n"], Trial], test: tuple[Float[Tensor, " m"], Trial]
) -> dict[str, float]:
    """AUROC, balanced accuracy and Pearson on test text; the cut is chosen on validation text.

    Args:
        validation: what was predicted, and for what.
        test: the same.
    """
    cut = best_threshold(validation[0], validation[1].label)
    score, truth = test
    return {
        "auroc": auroc(score, truth.label),
        "accuracy": balanced_accuracy(score, truth.label, cut),
        "pearson": pearson(score, truth.activation),
    }


def wins(
    scores: Mapping[str, Sequence[float]], ours: str, other: str, *, margin: float = MARGIN
) -> tuple[int, int, int]:
    """Times that ours is better by more than the margin, as good, worse."""
    gaps = [a - b for a, b in zip(scores[ours], scores[other], strict=True) if a == a and b == b]
    won, lost = sum(g > margin for g in gaps), sum(g < -margin for g in gaps)
    return won, len(gaps) - won - lost, lost


def win_ratio(
    gaps: ArrayLike,
    clusters: ArrayLike,
    *,
    margin: float = MARGIN,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Wins to losses, resampling neurons; ties count for neither side.

    Half a win and half a loss are added, so that the ratio is finite where there is no loss.

    Args:
        gaps: (n,) ours less theirs; NaN are left out.
        clusters: (n,) which neuron each is of.
        margin: beyond which a gap is a win or a loss.
        seed: of the resampling.
        n_resamples: how many.

    Returns:
        The ratio and its 95% percentile interval, NaN where there are fewer than two neurons.
    """
    from scipy.stats import bootstrap

    x, labels = np.asarray(gaps, dtype=float).ravel(), np.asarray(clusters).ravel()
    there = ~np.isnan(x)
    member = np.unique(labels[there], return_inverse=True)[1]
    won = np.bincount(member, x[there] > margin)
    lost = np.bincount(member, x[there] < -margin)

    def ratio(won: np.ndarray, lost: np.ndarray, axis: int = -1) -> np.ndarray:
        return (won.sum(axis) + 0.5) / (lost.sum(axis) + 0.5)

    low = high = float("nan")
    if len(won) > 1:
        low, high = bootstrap(
            (won, lost),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=n_resamples,
            batch=1000,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    value = float(ratio(won, lost))
    return Estimate(value, float(low), float(high), int(there.sum()), len(won))
