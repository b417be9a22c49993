"""Rules that turn results into verdicts on the paper's claims. Nothing here is typed by hand.

A rule and its thresholds are fixed before a result is looked at. A claim is reproduced only if the
whole interval of our figure reaches the paper's, and is above its null by more than chance. A
figure that any random direction would give shows nothing, however close to the paper's it is. And a
sample that is too small to tell says so: no verdict gains from a wide interval or a missing one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rotate_core.verdicts.claims import Claim
from rotate_core.verdicts.intervals import Estimate

VERDICTS = ("reproduced", "not reproduced", "inconclusive", "proxy", "not run")
LEAST_NEURONS = 8
"""Clusters below which a bootstrap interval is not to be trusted."""
MOST_NEURONS = 100_000
"""More clusters are no practical number to decide by: each of the paper's models has a few hundred
thousand neurons in all."""

RANDOM_WEIGHTS = "random-weights"
"""How the name of a model begins that has learned nothing, as in a rehearsal of the book."""


@dataclass(frozen=True)
class Outcome:
    """A chapter's figure for a claim, beside its null."""

    ours: Estimate
    null: Estimate
    """The same figure where there is nothing to find."""
    over_null: Estimate
    """Ours less the null, paired where they pair: what the interval has to keep above 0."""
    null_is: str
    """What the null is made of."""
    model: str
    """Which model, and how much of it."""
    whole: bool = True
    """Whether as much was measured as is claimed: fewer channels than the claim's may fall short of
    its figure, and that says nothing."""

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Outcome:
        """Out of results/NN_claim.json."""
        fields = dict(stored)
        for name in ("ours", "null", "over_null"):
            fields[name] = Estimate.of(stored[name])
        return Outcome(**fields)


def reaches_paper(claim: Claim, outcome: Outcome) -> bool | None:
    """Whether our whole interval is at or above the paper's lower figure.

    Returns:
        False if it lies wholly below, None where it straddles the figure or is missing, or lies
        below and is not of the whole that is claimed. True where the claim is a direction only.
    """
    if claim.judged_on is None or outcome.ours.low >= claim.judged_on[0]:
        return True
    return False if outcome.whole and outcome.ours.high < claim.judged_on[0] else None


def effect_claimed(claim: Claim, outcome: Outcome) -> float:
    """The excess of ours over our null if the paper were right, in the figure's unit.

    The paper's lower figure less our null's estimate where that is positive; else (and where the
    paper's figure is a direction, or on another scale) the claim's smallest effect of interest.
    """
    if claim.judged_on is not None and claim.judged_on[0] > outcome.null.value:
        return claim.judged_on[0] - outcome.null.value
    return claim.least


def beats_null(claim: Claim, outcome: Outcome) -> bool | None:
    """Whether the whole interval of ours less the null is above 0.

    Returns:
        False if it excludes what the paper claims: its upper end is below :func:`effect_claimed`.
        None where it holds both 0 and that effect, or is missing.
    """
    if outcome.over_null.low > 0:
        return True
    return False if outcome.over_null.high < effect_claimed(claim, outcome) else None


def deciding_n(estimate: Estimate, *boundaries: float) -> int | None:
    """Number of clusters that would bring the interval to one side of one of the boundaries.

    An interval shrinks with the square root of n, and the estimate is taken to stay where it is:
    ``n (half width / distance)^2``, of the boundary that is farthest, which it leaves first.

    Returns:
        None where that is more than :data:`MOST_NEURONS`.
    """
    n = estimate.n_clusters
    half = (estimate.high - estimate.low) / 2
    distance = max(abs(estimate.value - boundary) for boundary in boundaries)
    if n * half**2 > MOST_NEURONS * distance**2 or not distance:
        return None
    return max(n + 1, math.ceil(n * (half / distance) ** 2))


def verdict(claim: Claim, outcome: Outcome | None) -> tuple[str, str]:
    """The verdict and, in a few words, why.

    1. "not run": no outcome, or one without a number, or of random weights.
    2. "proxy": the claim is measured by a stand-in; how it stands to its null is the reason.
    3. "inconclusive": an interval is missing, or is of fewer than eight clusters.
    4. "not reproduced": :func:`reaches_paper` or :func:`beats_null` is False.
    5. "inconclusive": one of them is None; the reason has the n that would decide.
    6. "reproduced": both are True.
    """
    if outcome is None or math.isnan(outcome.ours.value) or not outcome.ours.n:
        return "not run", "no result" if outcome is None else "no values"
    if outcome.model.startswith(RANDOM_WEIGHTS):
        return "not run", "the weights are random"
    if problem := _no_judgement(outcome):
        return ("proxy", f"inconclusive: {problem}") if claim.proxy else ("inconclusive", problem)
    reached, beaten = reaches_paper(claim, outcome), beats_null(claim, outcome)
    figure, null = _of_figure(claim, outcome, reached), _of_null(claim, outcome, beaten)
    if claim.proxy:
        return "proxy", null if beaten is not None else f"inconclusive: {null}"
    for decision, answer in (("not reproduced", False), ("inconclusive", None)):
        reasons = [why for held, why in ((reached, figure), (beaten, null)) if held is answer]
        if reasons:
            return decision, ", ".join(reasons)
    return "reproduced", f"{figure}, {null}"


def _no_judgement(outcome: Outcome) -> str:
    """The reason why no interval can be judged; empty where they can."""
    if math.isnan(outcome.over_null.value):
        return "nothing to compare with"
    few = min(x.n_clusters for x in (outcome.ours, outcome.null, outcome.over_null))
    if few < LEAST_NEURONS:
        return f"too few neurons for an interval ({few} of at least {LEAST_NEURONS})"
    ends = [end for x in (outcome.ours, outcome.over_null) for end in (x.low, x.high)]
    return "no interval" if any(math.isnan(end) for end in ends) else ""


def _of_figure(claim: Claim, outcome: Outcome, reached: bool | None) -> str:
    if claim.judged_on is None:
        return "in the paper's direction"
    if reached is None and not outcome.whole:
        return "below the paper's figure, and of less than is claimed"
    if reached is None:
        n = _would_decide(outcome.ours, claim.judged_on[0])
        return f"its interval holds the paper's figure ({n})"
    return "reaches the paper's figure" if reached else "below the paper's figure"


def _of_null(claim: Claim, outcome: Outcome, beaten: bool | None) -> str:
    if beaten is None:
        n = _would_decide(outcome.over_null, 0, effect_claimed(claim, outcome))
        return f"its difference from the null may be none, or all that is claimed ({n})"
    return "above its null" if beaten else "not above its null"


def _would_decide(estimate: Estimate, *boundaries: float) -> str:
    n = deciding_n(estimate, *boundaries)
    if n is None:
        return "no practical number would decide"
    return f"an n of {n:,} instead of {estimate.n_clusters} would decide"
