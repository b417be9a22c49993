"""The paper's claims: its figures, where we know them from, and what would count as an effect.

Only one figure stands in the paper's abstract. All others are known to us from one second-hand
note, which names no model, layer, side or number of neurons. So a figure of no stated side stands
beside the input and the output chapter alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ABSTRACT, SECOND_HAND = "abstract", "second-hand"
"""Where a claim and its figure are known from: the paper's abstract, or a note about the paper."""

ROTATE, MFA, SNMF, QK = "2604.06005", "2602.02464", "2506.10920", "2602.04752"
"""The papers on arXiv: of channels of neurons, of regions and of factors of activations, and of
subspaces of heads."""
FAITHFULNESS, COMPLETENESS = (0.46, 0.71), (0.49, 0.60)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and what would count as seeing it."""

    text: str
    """In one sentence."""
    notebook: str
    """The chapter that measures it."""
    paper: tuple[float, float] | None = None
    """The paper's figure as a range; None: it states a direction only."""
    proxy: bool = False
    """Measured by something else than the paper measured, so never "reproduced"."""
    arxiv: str = ROTATE
    """Whose claim it is."""
    source: str = SECOND_HAND
    """:data:`ABSTRACT` or :data:`SECOND_HAND`."""
    paper_measure: str | None = None
    """What the paper's figure is of, where ours is on another scale: then it is shown beside ours,
    and the verdict is on the direction. None: the two can be compared."""
    least: float = 0.05
    """The smallest effect of interest, in the figure's unit; fixed before figures were looked at.

    - 0.05 of a share, a cosine, a Jaccard index or an AUROC: half of the narrower of the paper's
      ranges (0.49 to 0.60), so less than the paper itself tells apart.
    - 5 percentiles: the width of the paper's range (90 to 95).
    - 0.01 nats a token and dimension: a variance misjudged by a fifth costs about as much.
    - 0.1 nats that words gain by steering: their probability changes by a tenth.
    - 0.1 of a median excess kurtosis: that of 50,000 Gaussian logits has a standard error of
      ``sqrt(24 / 50_000)`` = 0.02, so 0.1 is what a single vector's projection shows clearly.
    """

    @property
    def judged_on(self) -> tuple[float, float] | None:
        """The paper's figure where ours can be held against it; None: a direction."""
        return self.paper if self.paper_measure is None else None

    @property
    def paper_text(self) -> str:
        """The paper's figure, for a table."""
        if self.paper is None:
            return "a direction"
        low, high = self.paper
        text = f"> {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
        text = f"{low:g}" if low == high else text
        return text if self.paper_measure is None else f"{text} ({self.paper_measure})"


CLAIMS: dict[str, Claim] = {
    "kurtosis_by_depth": Claim(
        "Kurtosis is higher in middle and late layers than in early ones.", "05_kurtosis", least=0.1
    ),
    "concept_percentile": Claim(
        "Concept vectors are more kurtotic than most neurons of the model (percentile).",
        "05_kurtosis",
        (90, 95),
        least=5,
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
    "input_faithfulness": Claim(
        "Ablating a channel of gate or in silences the positions that are its own.",
        "08_input_ablation",
        FAITHFULNESS,
    ),
    "input_completeness": Claim(
        "Ablating all channels takes away the strongest activations.",
        "08_input_ablation",
        COMPLETENESS,
    ),
    "output_faithfulness": Claim(
        "Ablating a channel of out lowers the logits of its own tokens (AUROC).",
        "09_output_ablation",
        FAITHFULNESS,
        paper_measure="faithfulness; ours is an AUROC",
    ),
    "output_completeness": Claim(
        "The channels alone keep a neuron's effect on its top tokens.",
        "09_output_ablation",
        COMPLETENESS,
    ),
    "descriptions": Claim(
        "Channels describe a neuron better than the baselines do.",
        "10_descriptions",
        (2, 3),
        proxy=True,
        source=ABSTRACT,
        paper_measure="wins for each loss, by a language model; ours is an AUROC",
    ),
    "regions_gain": Claim(
        "Activations lie in regions: many small components explain unseen tokens better than one "
        "of as many parameters (nats a token and dimension).",
        "13_regions",
        arxiv=MFA,
        least=0.01,
    ),
    "regions_interchange": Claim(
        "A variable sits in regions: swapping what they say of a token swaps the answer (share).",
        "13_regions",
        (0.8, 0.8),
        arxiv=MFA,
        proxy=True,
        paper_measure="position in MCQA; ours is a subject's number",
    ),
    "regions_local": Claim(
        "Local parts carry what centroids lose: the share that swaps with both, less that with "
        "centroids alone.",
        "13_regions",
        (0.41, 0.41),
        arxiv=MFA,
        proxy=True,
        paper_measure="position in MCQA; ours is a subject's number",
    ),
    "snmf_concepts": Claim(
        "Features detect their concept: the share of features that are more similar to its "
        "sentences than to others (S_CD above 0).",
        "14_factors",
        (0.75, 0.75),
        arxiv=SNMF,
        proxy=True,
        paper_measure="a language model's descriptions and sentences",
    ),
    "snmf_core": Claim(
        "Core neurons of a group of features raise all of its members (change of a logit).",
        "14_factors",
        (4.7, 6.0),
        arxiv=SNMF,
        paper_measure="GPT-2 large, weekdays, at a strength not known to us",
    ),
    "snmf_exclusive": Claim(
        "Neurons exclusive to one member's feature raise its own logit over the others'.",
        "14_factors",
        (2.57, 4.07),
        arxiv=SNMF,
        paper_measure="GPT-2 large, three weekdays, at a strength not known to us",
    ),
    "side_snmf_detection": Claim(
        "SNMF's features detect concepts better than a sparse autoencoder's do (AUROC).",
        "15_side_by_side",
        arxiv=SNMF,
        proxy=True,
        paper_measure="S_CD, by a language model's sentences",
    ),
    "side_snmf_steering": Claim(
        "SNMF's features steer to concepts better than a supervised difference of means (gain of "
        "a concept's words, nats).",
        "15_side_by_side",
        (0.45, 0.45),
        arxiv=SNMF,
        proxy=True,
        paper_measure="a language model's score, beside about 0.40",
        least=0.1,
    ),
    "side_mfa_steering": Claim(
        "MFA's centroids steer to concepts better than SAE features and than a difference of means "
        "(gain of a concept's words over the better of the two, nats).",
        "15_side_by_side",
        (2, 2),
        arxiv=MFA,
        proxy=True,
        paper_measure="times their median score by a language model",
        least=0.1,
    ),
    "heads_ranks": Claim(
        "A contrastive covariance has the rank of its feature as long as all features fit the head "
        "(share of the toy's features).",
        "16_heads",
        (1.0, 1.0),
        arxiv=QK,
    ),
    "heads_toy_swap": Claim(
        "Two keys that swap both of their features swap the toy's attention (change of it).",
        "16_heads",
        arxiv=QK,
    ),
    "heads_swap": Claim(
        "A few dimensions of a language model's head hold the category that is asked for: swapping "
        "them moves its attention (change of it).",
        "16_heads",
        arxiv=QK,
    ),
}
"""By name. What other parts of the method do (reflections, lambda) are ablations of ours: chapter 7
shows them as choices, and they are no claims."""


def on_the_scoreboard(outcomes: Iterable[str]) -> dict[str, Claim]:
    """The claims of ROTATE's paper, and those of other papers that there is an outcome of."""
    there = set(outcomes)
    return {name: c for name, c in CLAIMS.items() if c.arxiv == ROTATE or name in there}


@dataclass(frozen=True)
class Baseline:
    """A method that the paper holds ROTATE against."""

    name: str
    """As the paper, and a table of ours where there is one, calls it."""
    claims: tuple[str, ...]
    """Names of the claims that it stands beside."""
    missing: str
    """Why there is no figure of it, where there is none."""


BASELINES = (
    Baseline(
        "SAEs (Gemma Scope, Llama Scope)",
        ("input_faithfulness", "input_completeness", "output_faithfulness", "output_completeness"),
        "chapter 15 measures SAEs trained here; the paper's were not run",
    ),
    Baseline("MaxAct+VocabProj", ("descriptions",), "no chapter has left its figures"),
    Baseline("MaxAct++", ("descriptions",), "its recipe is not known to us"),
)
