"""What the figures say in words, by rule: verdicts with our reasons, and what a caption states."""

from __future__ import annotations

from collections.abc import Mapping

from rotate_core.experiments.scoreboard import CLAIMS, Claim, Outcome, verdict
from rotate_core.experiments.statistics import Estimate

PAPER_MODELS = ("gemma-2-2b", "llama-3.1-8b")
"""The paper's, as they are in a model's name."""


def reading(claim: Claim, outcome: Outcome | None) -> str:
    """One or two sentences from the figures alone.

    Our guesses at reasons: where the null is as good, the figure does not show what the claim says;
    where it is smaller than the paper's, the model is another one, or else our measure is.
    """
    decision, why = verdict(claim, outcome)
    if outcome is None or decision == "not run":
        return f"Not judged: {why}."
    told = _beside_null(outcome)
    if decision == "proxy":
        return f"By a stand-in for the paper's measure. It {told}."
    if decision == "reproduced":
        return f"It {told}."
    if outcome.over_null.low > 0 and claim.paper is not None:
        return f"There, but weaker than in the paper: it {told}. We think that {_other(outcome)}."
    if claim.paper is None:
        return f"It {told}. We think that it is not there, or too weak to see on this model."
    if outcome.ours.high >= claim.paper[0]:
        return (
            f"As good as the paper's figure, but it {told}. We think that this figure "
            "does not show what the claim says: chance reaches it too."
        )
    return f"Weaker than in the paper, and it {told}. We think that {_other(outcome)}."


def readings(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A reading for each claim, in the order of the scoreboard."""
    return [reading(claim, outcomes.get(name)) for name, claim in CLAIMS.items()]


def finding(difference: Estimate, *, above: str, around: str, below: str) -> str:
    """What a caption says of a difference, so that it holds for any model and sample.

    Args:
        difference: of two figures.
        above: said where its interval lies above 0.
        around: said where 0 is inside, or where there is no interval.
        below: said where it lies below 0.
    """
    if difference.low > 0:
        return above
    return below if difference.high < 0 else around


def _beside_null(outcome: Outcome) -> str:
    null = f"its null, {outcome.null_is}"
    return finding(
        outcome.over_null,
        above=f"stands out from {null}",
        around=f"does not stand out from {null} (n = {outcome.ours.n_clusters})",
        below=f"falls below {null}",
    )


def _other(outcome: Outcome) -> str:
    if any(name in outcome.model.lower() for name in PAPER_MODELS):
        return "our measure asks for more than the paper's, which is not public"
    return "this model, which is not one of the paper's, has fewer neurons of that sort"
