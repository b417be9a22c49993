"""Figures in words, by rule: verdicts with our reasons, and what a caption states."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rotate_core.verdicts.claims import Claim, on_the_scoreboard
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import LEAST_NEURONS, Outcome, beats_null, reaches_paper, verdict

PAPER_MODELS = ("gemma-2-2b", "llama-3.1-8b")
"""The paper's, as they are in a model's name."""


def sentence(claim: Claim, outcome: Outcome | None) -> str:
    """A verdict in one or two sentences, from the figures alone.

    Our guesses at reasons: where the null is as good, the figure does not show what the claim says;
    where it is smaller than the paper's, the model is another one, or else our measure is.
    """
    decision, why = verdict(claim, outcome)
    if outcome is None or decision == "not run":
        return f"Not judged: {why}."
    if decision == "inconclusive":
        return f"We cannot tell: {why}."
    told = _beside_null(claim, outcome)
    if decision == "proxy":
        unknown = why.removeprefix("inconclusive: ")
        about = f"It {told}" if unknown == why else f"We cannot tell: {unknown}"
        return f"By a stand-in for the paper's measure. {about}."
    if decision == "reproduced":
        return f"It {told}."
    reached = reaches_paper(claim, outcome)
    if reached is False:
        weaker = "Weaker than in the paper, and"
        if beats_null(claim, outcome):
            weaker = "There, but weaker than in the paper:"
        return f"{weaker} it {told}. We think that {_reason(outcome)}."
    if reached and claim.judged_on is not None:
        return (
            f"As good as the paper's figure, but it {told}. We think that this figure "
            "does not show what the claim says: chance reaches it too."
        )
    return f"It {told}. We think that it is not there, or too weak to see on this model."


def sentences(outcomes: Mapping[str, Outcome]) -> list[str]:
    """:func:`sentence` of each claim, in the order of the scoreboard."""
    claims = on_the_scoreboard(outcomes)
    return [sentence(claim, outcomes.get(name)) for name, claim in claims.items()]


def finding(
    difference: Estimate,
    *,
    margin: float,
    above: str,
    around: str,
    below: str,
    unknown: str,
    missing: str | None = None,
) -> str:
    """A caption's words for a difference, so that they hold for any model and sample.

    Args:
        difference: of two figures.
        margin: the equivalence bound, in the difference's unit, fixed before figures are seen: a
            claim's ``least``, or a constant with its reason beside it.
        above: said where its interval lies above 0, and not all of it inside the margin.
        around: "no more", "flat": said where the whole interval is inside the margin, on whichever
            side of 0.
        below: said where it lies below 0, and not all of it inside the margin.
        unknown: said else: 0 is inside, and so is a difference that would matter. Also said of
            fewer than eight clusters, whose interval is not to be trusted.
        missing: said where there is no figure or no interval; None: ``unknown``.

    Raises:
        ValueError: a margin that is not a positive number.

    Source: Schuirmann (1987) for the margin, here with the 95% interval and not the 90% one.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin={margin}: wanted a positive number")
    if any(math.isnan(x) for x in (difference.value, difference.low, difference.high)):
        return unknown if missing is None else missing
    if difference.n_clusters < LEAST_NEURONS:
        return unknown
    if -margin < difference.low and difference.high < margin:
        return around
    if difference.low > 0:
        return above
    return below if difference.high < 0 else unknown


def _beside_null(claim: Claim, outcome: Outcome) -> str:
    null, beaten = f"its null, {outcome.null_is}", beats_null(claim, outcome)
    if beaten:
        return f"stands out from {null}"
    if outcome.over_null.high < 0:
        return f"falls below {null}"
    does = "may or may not" if beaten is None else "does not"
    return f"{does} stand out from {null} (n = {outcome.ours.n_clusters})"


def _reason(outcome: Outcome) -> str:
    if any(name in outcome.model.lower() for name in PAPER_MODELS):
        return "our measure asks for more than the paper's, which is not public"
    return "this model, which is not one of the paper's, has fewer neurons of that sort"
