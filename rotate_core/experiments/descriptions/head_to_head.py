"""All descriptions of some neurons, judged on the same trials (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from rotate_core.experiments.descriptions.exemplars import Text
from rotate_core.experiments.descriptions.kernels import KERNELS, Kernels
from rotate_core.experiments.descriptions.trials import HeldOut, Trial, auroc, draw_trial
from rotate_core.experiments.descriptions.weights import POLARITIES, Description
from rotate_core.null.matched import own_seed

if TYPE_CHECKING:
    import pandas as pd

QUANTILE = 0.99
"""Of the train text's activations: a positive is above it."""


def draw_trials(
    text: Mapping[str, Text],
    polarity: str,
    *,
    layer: int,
    quantile: float = QUANTILE,
    read: str = "current",
    tested: str = "test",
    seed: int = 0,
) -> list[HeldOut]:
    """Trials of each neuron on validation and test text; false where there are too few positives.

    A neuron fires where it is above a quantile of the *train* text, on whatever text it is tested:
    so firing means one and the same thing, and a text where a neuron never fires is no test of what
    makes it fire. Above a quantile of each text, every neuron would have positives on every text,
    and on some they would be its noise.

    Args:
        text: by split: train, validation, and what is tested.
        polarity: of the activation.
        layer: of the neurons.
        quantile: of the train text; positives are above it.
        read: the token that a description is held against, "current" or "next": a neuron of a late
            layer may fire at what comes next.
        tested: the split to judge on: "test", or one from another source.
        seed: of the draws; each layer, neuron, polarity and split draws by itself.
    """
    sign = POLARITIES[polarity]
    limits = (text["train"].activation * sign).quantile(quantile, dim=0).tolist()

    def draw(split: str, i: int) -> Trial:
        windows, own = text[split].windows, own_seed(seed, layer, polarity, split, i)
        tokens = {
            "current": (windows.current, windows.previous),
            "next": (windows.next, windows.current),
        }
        return draw_trial(text[split].activation[:, i] * sign, *tokens[read], limits[i], seed=own)

    return [HeldOut(draw("validation", i), draw(tested, i)) for i in range(len(limits))]


@dataclass(frozen=True, eq=False)
class DescribedNeurons:
    """A layer's neurons in one polarity: their text, their trials, and what describes them."""

    layer: int
    polarity: str
    indices: tuple[int, ...]
    """Neuron numbers."""
    text: Mapping[str, Text]
    """By split."""
    trials: Sequence[HeldOut]
    """One for each neuron."""
    descriptions: Mapping[str, Sequence[Description]]
    """By method, one for each neuron."""
    tested: str = "test"
    """The split that the trials judge on."""

    def using(self, descriptions: Mapping[str, Sequence[Description]]) -> DescribedNeurons:
        """The same with other descriptions by some of the methods."""
        return replace(self, descriptions={**self.descriptions, **descriptions})

    def drawn(self, **options: Any) -> DescribedNeurons:
        """The same with other trials; options of :func:`draw_trials`, ``tested`` as it was."""
        options = {"tested": self.tested} | options
        trials = draw_trials(self.text, self.polarity, layer=self.layer, **options)
        return replace(self, trials=trials, tested=options["tested"])

    def labels(self, i: int) -> dict[str, Any]:
        """Columns of a table that name the i-th neuron; a bootstrap resamples ``cluster``."""
        index = self.indices[i]
        row = {"text": self.tested, "layer": self.layer, "neuron": index}
        return row | {"cluster": f"{self.layer}/{index}", "polarity": self.polarity}


def validation_score(kernels: Kernels, trials: HeldOut, description: Description) -> float:
    """The AUROC on validation text, mean of the kernels, that a description is chosen by."""
    if not trials:
        return float("-inf")
    trial = trials.validation
    scores = [kernels.predict(description, trial.token, trial.previous, k) for k in KERNELS]
    return sum(auroc(score, trial.label) for score in scores) / len(KERNELS)


def best_of(
    lists: Sequence[Sequence[Description]], trials: Sequence[HeldOut], kernels: Kernels
) -> list[Description]:
    """For each neuron, the one of several descriptions that is best on validation text."""
    return [
        max(candidates, key=partial(validation_score, kernels, own))
        for own, *candidates in zip(trials, *lists, strict=True)
    ]


def score_descriptions(
    described: Sequence[DescribedNeurons], kernels: Kernels, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """AUROC, balanced accuracy and Pearson of each description on the tested text.

    Args:
        described: neurons with their descriptions and trials.
        kernels: that descriptions predict by.
        methods: whose descriptions to score; None for all.

    Returns:
        One row per method, neuron, polarity and kernel; neurons with too few positives are left
        out. ``text`` is the split that was tested. The cut of balanced accuracy is the validation
        text's. ``told`` is the share of the trial's positions where anything is predicted: with the
        exact kernel, those with a token of the description.
    """
    import pandas as pd

    rows = []
    for neurons in described:
        for method in neurons.descriptions if methods is None else methods:
            for i, description in enumerate(neurons.descriptions[method]):
                trials = neurons.trials[i]
                labels = neurons.labels(i) | {"method": method, "empty": not description.ids}
                for kernel in KERNELS if trials else ():
                    validation, test = (
                        kernels.predict(description, trial.token, trial.previous, kernel)
                        for trial in (trials.validation, trials.test)
                    )
                    rows.append(labels | {"kernel": kernel} | trials.scores(validation, test))
    return pd.DataFrame(rows)


def score_token_frequency(described: Sequence[DescribedNeurons]) -> pd.DataFrame:
    """The control that knows no neuron: log frequency of the token in the train text.

    Whether a frequent or a rare token speaks for the neuron is chosen on validation text.

    Returns:
        As :func:`score_descriptions`, the same for both kernels.
    """
    import pandas as pd

    rows = []
    for neurons in described:
        train = neurons.text["train"].windows.tokens.flatten()
        last = max(int(text.windows.tokens.max()) for text in neurons.text.values())
        frequency = torch.bincount(train, minlength=last + 1).float().log1p()
        for i, trials in enumerate(neurons.trials):
            if not trials:
                continue
            validation, test = (frequency[t.token] for t in (trials.validation, trials.test))
            sign = 1 if auroc(validation, trials.validation.label) >= 0.5 else -1
            scores = trials.scores(sign * validation, sign * test) | {"told": 1.0}
            labels = neurons.labels(i) | {"method": "token frequency", "empty": False}
            rows += [labels | {"kernel": kernel} | scores for kernel in KERNELS]
    return pd.DataFrame(rows)


def coverage(described: Sequence[DescribedNeurons]) -> pd.DataFrame:
    """One row per layer and polarity: neurons judged, skipped, and how gate goes where they fire.

    ``text`` is the split that was tested. ``gate > 0`` is the share of its trials' positives where
    ``g . x`` is positive: what :func:`.weights.product_polarity` takes for granted.
    """
    import pandas as pd

    rows = []
    for neurons in described:
        gate, firing = neurons.text[neurons.tested].gate, []
        judged = [(i, trials.test) for i, trials in enumerate(neurons.trials) if trials]
        if gate is not None:
            firing = [gate[trial.position[trial.label == 1], i] > 0 for i, trial in judged]
        row = {"text": neurons.tested, "layer": neurons.layer, "polarity": neurons.polarity}
        row |= {"judged": len(judged), "skipped": len(neurons.trials) - len(judged)}
        share = torch.cat(firing).double().mean().item() if firing else None
        rows.append(row | {"gate > 0": share})
    return pd.DataFrame(rows)
