"""Trials on held-out text of whether a description tells when its neuron fires, and their scores.

A trial is some positions where the neuron fires and some where it does not, half of the latter with
tokens as frequent as the former's. A description predicts an activation for each
(:class:`.kernels.Kernels`), and is scored by how well that tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor

from rotate_core.verdicts.intervals import N_RESAMPLES, Estimate

MARGIN = 0.01
"""AUROC by which a description has to be better to win."""
N_OF_EACH = 50
"""Positions of each sort in a trial: positives, negatives, hard negatives."""
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


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A neuron's trials, to choose by and to judge by; false where one has too few positives."""

    validation: Trial
    test: Trial

    def __bool__(self) -> bool:
        return len(self.validation) > 0 and len(self.test) > 0

    def scores(
        self, validation: Float[Tensor, " n"], test: Float[Tensor, " m"]
    ) -> dict[str, float]:
        """Scores of a prediction on the test trial.

        Args:
            validation: predicted activations at the positions of the validation trial.
            test: at those of the test trial.

        Returns:
            ``auroc``, ``accuracy`` (balanced; the cut is chosen on the validation trial),
            ``pearson``, and ``told``: the share of positions where anything is predicted.
        """
        cut = best_threshold(validation, self.validation.label)
        return {
            "auroc": auroc(test, self.test.label),
            "accuracy": balanced_accuracy(test, self.test.label, cut).item(),
            "pearson": pearson(test, self.test.activation),
            "told": (test > 0).double().mean().item(),
        }


def draw_trial(
    activation: Float[Tensor, " n_positions"],
    token: Int[Tensor, " n_positions"],
    previous: Int[Tensor, " n_positions"],
    train_threshold: float,
    *,
    seed: int = 0,
) -> Trial:
    """Positions of held-out text to judge a description on, and which of them are positive.

    50 positives over ten quantiles above the train text's 99th percentile; 50 negatives below the
    median; and below the median, for each positive, a hard negative whose token is as frequent.

    Args:
        activation: signed by the polarity, so that firing is positive.
        token: at each position.
        previous: the one before it.
        train_threshold: the percentile of the train text.
        seed: of the draws.

    Returns:
        Of length 0 where there are fewer than ten positives.
    """
    from scipy.optimize import linear_sum_assignment

    generator = torch.Generator().manual_seed(seed)

    def draw(positions: Tensor, n: int) -> Tensor:
        return positions[torch.randperm(len(positions), generator=generator)[:n]]

    above = (activation > max(train_threshold, 0)).nonzero().flatten()
    below = (activation <= activation.median()).nonzero().flatten()
    if len(above) < LEAST_POSITIVES:
        return Trial(*(part[:0] for part in (above, above, activation, token, previous)))
    quantiles = above[activation[above].argsort()].tensor_split(10)
    positive = torch.cat([draw(part, N_OF_EACH // 10) for part in quantiles])
    negative = draw(below, N_OF_EACH)
    pool = draw(below, 20 * N_OF_EACH)
    pool = pool[~torch.isin(pool, negative)]
    count = torch.bincount(token, minlength=int(token.max()) + 1)[token].float().log()
    distance = (count[positive][:, None] - count[pool][None]).abs()
    hard = pool[torch.from_numpy(linear_sum_assignment(distance.numpy())[1])]
    chosen = torch.cat([positive, negative, hard])
    label = (torch.arange(len(chosen)) < len(positive)).long()
    return Trial(chosen, label, activation[chosen], token[chosen], previous[chosen])


def auroc(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    positive = (label == 1).numpy()
    n, n_negative = positive.sum(), (~positive).sum()
    if not n or not n_negative:
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * n_negative))


def best_threshold(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The cut of the best balanced accuracy: halfway between two scores that there are."""
    values = score.unique()
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    return cuts[int(np.argmax(balanced_accuracy(score, label, cuts).numpy()))].item()


def balanced_accuracy(
    score: Float[Tensor, " n"], label: Int[Tensor, " n"], cut: float | Float[Tensor, " m"]
) -> Float[Tensor, "*cuts"]:
    """Mean of the shares of positives above a cut and of negatives not above it, for each cut."""
    above = (score > torch.as_tensor(cut)[..., None]).double()  # most of the time of a contest
    return (above[..., label == 1].mean(-1) + 1 - above[..., label == 0].mean(-1)) / 2


def pearson(score: Float[Tensor, " n"], activation: Float[Tensor, " n"]) -> float:
    """Correlation of predicted and true activation; 0 where the prediction is constant."""
    if score.unique().numel() < 2:
        return 0.0
    return torch.corrcoef(torch.stack([score.double(), activation.double()]))[0, 1].item()


def wins(gaps: ArrayLike, *, margin: float = MARGIN) -> tuple[int, int, int]:
    """Gaps above the margin (won), within it (tied) and below it (lost); NaN are left out."""
    x = np.asarray(gaps, dtype=float)
    won, tied, lost = x > margin, abs(x) <= margin, x < -margin
    return int(won.sum()), int(tied.sum()), int(lost.sum())


def win_ratio(
    gaps: ArrayLike, clusters: ArrayLike, *, margin: float = MARGIN, seed: int = 0
) -> Estimate:
    """Wins to losses, resampling neurons; ties count for neither side.

    Half a win and half a loss are added, so that the ratio is finite where there is no loss.

    Args:
        gaps: (n,) ours less theirs; NaN are left out.
        clusters: (n,) which neuron each is of.
        margin: beyond which a gap is a win or a loss.
        seed: of the resampling.

    Returns:
        The ratio and its 95% percentile interval, NaN where there are fewer than two neurons.
    """
    from scipy.stats import bootstrap

    x, labels = np.asarray(gaps, dtype=float), np.asarray(clusters)
    member = np.unique(labels[~np.isnan(x)], return_inverse=True)[1]
    x = x[~np.isnan(x)]
    counts = np.bincount(member, x > margin), np.bincount(member, x < -margin)

    def ratio(won: np.ndarray, lost: np.ndarray, axis: int = -1) -> np.ndarray:
        return (won.sum(axis) + 0.5) / (lost.sum(axis) + 0.5)

    low = high = float("nan")
    if len(counts[0]) > 1:
        low, high = bootstrap(
            counts, ratio, paired=True, vectorized=True, n_resamples=N_RESAMPLES, batch=1000,
            method="percentile", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return Estimate(float(ratio(*counts)), float(low), float(high), len(x), len(counts[0]))
