"""The paper's claims as cards: its figure, ours and its null on one axis, and the verdict.

HTML that reads in Jupyter and in the book, on a phone, in light and in dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rotate_core.verdicts.claims import CLAIMS, Claim
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import Outcome, verdict
from rotate_core.verdicts.wording import sentence

WIDTH, HEIGHT, MARGIN = 320, 62, 14
"""Of a strip, in pixels: a phone's column."""
OURS, NULL, PAPER = 16, 32, 40
"""Heights of our line and the null's, and where the paper's range and the axis end."""

STYLE = Path(__file__).with_name("cards.css")
"""Of every card. Colours are those of the figures: the neuron's, the paper's; the null's is the
text's, so that it shows on any ground."""


@dataclass(frozen=True)
class Cards:
    """Claims and their outcomes, one card per claim; shows itself in Jupyter and in the book.

    A card is open. Folded, as the book has long lists of them on a phone, it has its verdicts.
    """

    outcomes: Mapping[str, Sequence[Outcome]]
    """By the claim's name: one of each model; none where it was not run."""
    reading: bool = True
    """Whether the sentence that follows from the figures is shown."""
    link: str | None = None
    """Where a claim's chapter is, such as "{}.ipynb"; None: no links."""

    def _repr_html_(self) -> str:
        cards = "".join(self._card(name, found) for name, found in self.outcomes.items())
        return f'<style>{STYLE.read_text(encoding="utf-8")}</style><ul class="claims">{cards}</ul>'

    def _card(self, name: str, outcomes: Sequence[Outcome]) -> str:
        claim = CLAIMS[name]
        drawn = claim.judged_on is not None and any(map(_has_figure, outcomes))
        key = '<span class="key is-paper"></span>' if drawn else ""
        paper = f"<p>{key}Paper: {_text(claim.paper_text)} ({claim.source})</p>"
        axis = Axis.of(claim, outcomes)
        rows = "".join(self._row(claim, outcome, axis) for outcome in outcomes or (None,))
        link = ""
        if self.link is not None:
            label = f"Chapter {claim.notebook.lstrip('0').replace('_', ': ', 1).replace('_', ' ')}"
            link = f'<p><a href="{self.link.format(claim.notebook)}">{label}</a></p>'
        badges = " ".join(_badge(claim, outcome) for outcome in outcomes or (None,))
        said = f'<span class="claim">{_text(claim.text)}</span><span class="short">{badges}</span>'
        summary = f"<summary>{said}</summary>"
        return f'<li><details open="">{summary}{paper}{rows}{link}</details></li>'

    def _row(self, claim: Claim, outcome: Outcome | None, axis: Axis | None) -> str:
        badge = _badge(claim, outcome)
        said = f"<p>{_text(sentence(claim, outcome))}</p>" if self.reading else ""
        if outcome is None:
            return f'<div class="measured"><p>{badge}</p>{said}</div>'
        strip = axis.strip(claim, outcome) if axis and _has_figure(outcome) else ""
        return (
            f'<div class="measured"><p>{badge} {_text(outcome.model)}</p>{strip}'
            f'<p><span class="key is-ours"></span>Ours: {outcome.ours}, n = '
            f'{outcome.ours.n_clusters:,}<br><span class="key"></span>'
            f"Null: {outcome.null}, {_text(outcome.null_is)}<br>"
            f"Difference: {outcome.over_null}</p>{said}</div>"
        )


@dataclass(frozen=True)
class Axis:
    """The axis that a card's strips share."""

    low: float
    high: float

    @staticmethod
    def of(claim: Claim, outcomes: Sequence[Outcome]) -> Axis | None:
        """From the lowest to the highest of all that is drawn; None where nothing is."""
        figures = [x for o in outcomes for e in (o.ours, o.null) for x in (e.value, e.low, e.high)]
        there = [x for x in (*figures, *(claim.judged_on or ())) if math.isfinite(x)]
        if not there:
            return None
        low, high = min(there), max(there)
        room = 0.06 * (high - low) or 0.1
        return Axis(low - room, high + room)

    def x(self, value: float) -> float:
        """Where a value is, in pixels; what is beyond an end is at the end."""
        share = (value - self.low) / (self.high - self.low)
        return MARGIN + (WIDTH - 2 * MARGIN) * min(max(share, 0), 1)

    def ticks(self) -> list[float]:
        """Two to five round values inside."""
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(unit * k for k in (0.2, 0.5, 1, 2) if span / (unit * k) < 5.5)
        inside = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [round(step * k, 10) for k in inside]  # 0.3, where 3 * 0.1 has a tail of digits

    def strip(self, claim: Claim, outcome: Outcome) -> str:
        """One model's figure and its null, over the paper's range where that is on this scale."""
        parts, said = [], [f"ours {outcome.ours}", f"null {outcome.null}"]
        if claim.judged_on is not None:
            start, end = map(self.x, claim.judged_on)
            middle, width = (start + end) / 2, max(end - start, 4)  # one figure is a narrow range
            parts.append(
                f'<rect class="paper" x="{middle - width / 2:.1f}" y="4" width="{width:.1f}" '
                f'height="{PAPER - 4}"/>'
            )
            said.append(f"paper {claim.paper_text}")
        parts.append(self._line("ours", outcome.ours, OURS, 5))
        parts.append(self._line("null", outcome.null, NULL, 4))
        parts.append(
            f'<path class="axis" fill="none" d="M{MARGIN},{PAPER}H{WIDTH - MARGIN}'
            + "".join(f"M{self.x(tick):.1f},{PAPER}v4" for tick in self.ticks())
            + '"/>'
        )
        parts += [f'<text x="{self.x(t):.1f}" y="{HEIGHT - 6}">{t:g}</text>' for t in self.ticks()]
        return (
            f'<svg role="img" aria-label="{_text("; ".join(said))}" width="{WIDTH}" '
            f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
        )

    def _line(self, name: str, estimate: Estimate, y: int, radius: int) -> str:
        """A point on its interval."""
        interval = ""
        if not math.isnan(estimate.low):
            interval = f'<path d="M{self.x(estimate.low):.1f},{y}H{self.x(estimate.high):.1f}"/>'
        point = ""
        if not math.isnan(estimate.value):
            point = f'<circle cx="{self.x(estimate.value):.1f}" cy="{y}" r="{radius}"/>'
        return f'<g class="{name}">{interval}{point}</g>'


def _badge(claim: Claim, outcome: Outcome | None) -> str:
    decision, _ = verdict(claim, outcome)
    return f'<span class="verdict {decision.replace(" ", "-")}">{decision}</span>'


def _has_figure(outcome: Outcome) -> bool:
    return not math.isnan(outcome.ours.value)


def _text(words: str) -> str:
    return html.escape(words)
