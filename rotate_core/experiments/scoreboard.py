"""The paper's claims, and rules that turn results into verdicts. Nothing here is typed by hand.

A rule and its thresholds are fixed before a result is looked at. A claim is reproduced only if our
figure reaches the paper's and is above its null by more than chance. A figure that any random
direction would give shows nothing, however close to the paper's it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotate_core.experiments.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

VERDICTS = ("reproduced", "not reproduced", "proxy", "not run")
LEAST_NEURONS = 8
"""Clusters below which a bootstrap interval is not to be trusted."""


@dataclass(frozen=True)
class Claim:
    """What the paper says, and what would count as seeing it."""

    text: str
    """In one sentence."""
    notebook: str
    """The chapter that measures it."""
    paper: tuple[float, float] | None = None
    """The paper's figure as a range; None: it states a direction only."""
    proxy: bool = False
    """Measured by something else than the paper measured, so never "reproduced"."""

    @property
    def paper_text(self) -> str:
        """The paper's figure, for a table."""
        if self.paper is None:
            return "a direction"
        low, high = self.paper
        if math.isinf(high):
            return f"> {low:g}"
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"


CLAIMS: dict[str, Claim] = {
    "kurtosis_by_depth": Claim(
        "Kurtosis is higher in middle and late layers than in early ones.", "05_kurtosis"
    ),
    "concept_percentile": Claim(
        "Concept vectors are more kurtotic than most neurons of their layer (percentile).",
        "05_kurtosis",
        (90, 95),
    ),
    "reconstruction_cosine": Claim(
        "Fifty channels reconstruct a neuron's direction (cosine).",
        "06_reconstruction",
        (0.95, math.inf),
    ),
    "reconstruction_norm": Claim(
        "Fifty channels explain a neuron's norm.", "06_reconstruction", (0.7, math.inf)
    ),
    "stability_cosine": Claim(
        "Other seeds give the same channels (cosine).", "06_reconstruction", (0.9, 0.9)
    ),
    "stability_jaccard": Claim(
        "Other seeds give the same top tokens (Jaccard).", "06_reconstruction", (0.8, 0.8)
    ),
    "masking_over_subtraction": Claim(
        "Masking finds more distinct channels than subtraction (share of channels).",
        "07_ablations_of_the_method",
    ),
    "one_reflection_is_enough": Claim(
        "More reflections do not raise the objective.", "07_ablations_of_the_method"
    ),
    "input_faithfulness": Claim(
        "Ablating a channel of gate or in silences the positions that are its own.",
        "08_input_ablation",
        (0.46, 0.71),
    ),
    "input_completeness": Claim(
        "Ablating all channels takes away the strongest activations.",
        "08_input_ablation",
        (0.49, 0.60),
    ),
    "output_faithfulness": Claim(
        "Ablating a channel of out lowers the logits of its own tokens (AUROC).",
        "09_output_ablation",
    ),
    "output_completeness": Claim(
        "The channels alone keep a neuron's effect on its top tokens.", "09_output_ablation"
    ),
    "descriptions": Claim(
        "Channels describe a neuron better than the baselines do.", "10_descriptions", proxy=True
    ),
}
"""By name. The paper's figures are known to us from its abstract and from notes about it."""


@dataclass(frozen=True)
class Outcome:
    """What a chapter found about a claim."""

    ours: Estimate
    null: Estimate
    """The same figure where there is nothing to find."""
    over_null: Estimate
    """Ours less the null, paired where they pair: what the interval has to keep above 0."""
    null_is: str
    """What the null is made of."""
    model: str
    """Which model, and how much of it."""

    def asdict(self) -> dict[str, Any]:
        """For results/NN_claim.json."""
        estimates = {name: getattr(self, name).asdict() for name in ("ours", "null", "over_null")}
        return estimates | {"null_is": self.null_is, "model": self.model}

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Outcome:
        """Out of results/NN_claim.json."""
        estimates = {name: _estimate(stored[name]) for name in ("ours", "null", "over_null")}
        return Outcome(**estimates, null_is=stored["null_is"], model=stored["model"])


def _estimate(stored: Mapping[str, Any]) -> Estimate:
    values: dict[str, Any] = {k: math.nan if v is None else v for k, v in stored.items()}
    return Estimate(**values)


def verdict(claim: Claim, outcome: Outcome | None) -> tuple[str, str]:
    """The verdict and, in a few words, why.

    1. No outcome, or one from fewer than eight neurons: "not run".
    2. The claim is measured by a stand-in: "proxy", whatever it says.
    3. "reproduced" if the upper end of our interval reaches the lower end of the paper's range
       (where it gives a figure), and the whole interval of ours less the null is above 0.
    4. Else "not reproduced".
    """
    if outcome is None:
        return "not run", "no result"
    over = outcome.over_null
    no_interval = any(math.isnan(x) for x in (outcome.ours.low, outcome.ours.high, over.low))
    if no_interval or outcome.ours.n_clusters < LEAST_NEURONS:
        return "not run", f"too few neurons for an interval ({outcome.ours.n_clusters})"
    beats_null = over.low > 0
    if claim.proxy:
        return "proxy", "above its null" if beats_null else "not above its null"
    reaches = claim.paper is None or outcome.ours.high >= claim.paper[0]
    if reaches and beats_null:
        what = "in the paper's direction" if claim.paper is None else "reaches the paper's figure"
        return "reproduced", f"{what}, above its null"
    why = [] if reaches else ["below the paper's figure"]
    why += [] if beats_null else ["not above its null"]
    return "not reproduced", ", ".join(why)


def table(outcomes: Mapping[str, Outcome], claims: Sequence[str] | None = None) -> pd.DataFrame:
    """A row a claim: the paper's figure, ours with interval and null, verdict, why, notebook.

    Args:
        outcomes: by the claim's name; what is missing was not run.
        claims: names, in order; None for all.

    Raises:
        KeyError: an outcome of no known claim.
    """
    import pandas as pd

    if unknown := set(outcomes) - set(CLAIMS):
        raise KeyError(f"no claims {sorted(unknown)}; known are {', '.join(CLAIMS)}")
    rows = []
    for name in CLAIMS if claims is None else claims:
        claim, outcome = CLAIMS[name], outcomes.get(name)
        decision, why = verdict(claim, outcome)
        rows.append(
            {
                "claim": claim.text,
                "paper": claim.paper_text,
                "ours": str(outcome.ours) if outcome else "",
                "null": f"{outcome.null} ({outcome.null_is})" if outcome else "",
                "ours less null": str(outcome.over_null) if outcome else "",
                "neurons": outcome.ours.n_clusters if outcome else 0,
                "model": outcome.model if outcome else "",
                "verdict": decision,
                "why": why,
                "notebook": claim.notebook,
            }
        )
    return pd.DataFrame(rows)


def shown(outcomes: Mapping[str, Outcome], claims: Sequence[str] | None = None) -> Styler:
    """:func:`table` as a chapter shows it: a column a claim, and no word cut off.

    Args:
        outcomes: by the claim's name.
        claims: names, in order; None for those of the outcomes.
    """
    rows = table(outcomes, list(outcomes) if claims is None else claims)
    return rows.drop(columns="notebook").set_index("claim").rename_axis(None).T.style


def over_null_rows(outcomes: Mapping[str, Outcome]) -> list[tuple[str, Estimate, str]]:
    """(name, ours less the null, verdict) of each claim, percentiles as shares; for a figure."""
    return [
        (_label(name), _as_share(name, outcome.over_null), verdict(CLAIMS[name], outcome)[0])
        for name, outcome in outcomes.items()
    ]


def paper_rows(
    outcomes: Mapping[str, Outcome],
) -> list[tuple[str, Estimate, Estimate, tuple[float, float]]]:
    """(name, ours, null, paper's range) of each claim with a figure, percentiles as shares."""
    rows = []
    for name, outcome in outcomes.items():
        if (paper := CLAIMS[name].paper) is not None:
            low, high = (x / _unit(name) for x in paper)
            ours, null = (_as_share(name, x) for x in (outcome.ours, outcome.null))
            rows.append((_label(name), ours, null, (low, high)))
    return rows


def _label(name: str) -> str:
    return name.replace("_", " ")


def _unit(name: str) -> float:
    return 100.0 if name.endswith("_percentile") else 1.0


def _as_share(name: str, estimate: Estimate) -> Estimate:
    value, low, high = (x / _unit(name) for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n, estimate.n_clusters)


def collect(folder: str | Path, *, checksum: str | None = None) -> dict[str, Outcome]:
    """The outcomes that the chapters left in results/*.json.

    Args:
        folder: of the files.
        checksum: of a model; results of others are left out, and so count as not run.
    """
    found: dict[str, Outcome] = {}
    for file in sorted(Path(folder).glob("[0-9][0-9]_*.json")):
        stored = json.loads(file.read_text(encoding="utf-8"))
        if checksum in (None, stored["model"]["checksum"]):
            for name, outcome in stored.get("claims", {}).items():
                found[name] = Outcome.of(outcome)
    return found
