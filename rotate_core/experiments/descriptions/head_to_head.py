"""All descriptions of some neurons, judged on the same trials (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.experiments.descriptions.exemplars import previous
from rotate_core.experiments.descriptions.kernels import KERNELS, Kernels
from rotate_core.experiments.descriptions.trials import Trial, auroc, scores, trial
from rotate_core.experiments.descriptions.weights import POLARITIES, Description
from rotate_core.null.matched import own_seed
from rotate_core.text.corpus import Windows

if TYPE_CHECKING:
    import pandas as pd

QUANTILE = 0.99
"""Of the train text's activations: a positive is above it."""


def first(windows: Windows, n: int) -> Windows:
    """The first n windows: as windows are taken in turns, of as many documents as there are."""
    return Windows(windows.tokens[:n], windows.document[:n], windows.titles)


@dataclass(frozen=True, eq=False)
class Text:
    """The windows of a split, and what some neurons do on them."""

    windows: Windows
    activation: Float[Tensor, "n_positions n_neurons"]
    """At the counted positions."""
    gate: Float[Tensor, "n_positions n_neurons"] | None = None
    """``g . x`` there, where the neurons are gated."""

    @staticmethod
    def of(
        windows: Windows, products: Float[Tensor, "n_windows length n_rows"], act: torch.nn.Module,
        *, gated: bool,
    ) -> Text:  # fmt: skip
        """From the products of the MLP's input with gate and in vectors, one after the other."""
        values = windows.counted(products)
        if not gated:
            return Text(windows, act(values))
        gate, in_ = values.chunk(2, dim=1)
        return Text(windows, act(gate) * in_, gate)


@dataclass(frozen=True, eq=False)
class Pair:
    """The trials of one neuron and polarity: one to choose by, one to judge by."""

    validation: Trial
    test: Trial

    def __bool__(self) -> bool:
        return len(self.validation) > 0 and len(self.test) > 0


def pairs(
    text: Mapping[str, Text],
    polarity: str,
    *,
    layer: int,
    quantile: float = QUANTILE,
    n: int = 50,
    read: str = "current",
    tested: str = "test",
    seed: int = 0,
) -> list[Pair]:
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
        n: positions of each sort.
        read: the token that a description is held against, "current" or "following": a neuron of a
            late layer may fire at what comes next.
        tested: the split to judge on: "test", or one from another source.
        seed: of the draws; each layer, neuron, polarity and split draws by itself.
    """
    sign = POLARITIES[polarity]
    limits = (text["train"].activation * sign).quantile(quantile, dim=0).tolist()

    def of(split: str, i: int) -> Trial:
        windows = text[split].windows
        current, following = windows.current, windows.next
        tokens = {"current": (current, previous(windows)), "following": (following, current)}
        a = text[split].activation[:, i] * sign
        own = own_seed(seed, layer, polarity, split, i)
        return trial(a, *tokens[read], limits[i], n=n, seed=own)

    return [Pair(of("validation", i), of(tested, i)) for i in range(len(limits))]


def validation_score(kernels: Kernels, pair: Pair, description: Description) -> float:
    """What a description is chosen by: AUROC on validation text, mean of the kernels."""
    if not pair:
        return float("-inf")
    return sum(
        auroc(_predicted(kernels, description, pair.validation, kernel), pair.validation.label)
        for kernel in KERNELS
    ) / len(KERNELS)


def best_of(
    lists: Sequence[Sequence[Description]], trials: Sequence[Pair], kernels: Kernels
) -> list[Description]:
    """For each neuron, the one of several descriptions that is best on validation text."""
    return [
        max(some, key=lambda description: validation_score(kernels, pair, description))
        for pair, *some in zip(trials, *lists, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Case:
    """A layer's neurons in one polarity: their text, their trials, and what describes them."""

    layer: int
    polarity: str
    neurons: tuple[int, ...]
    text: Mapping[str, Text]
    """By split."""
    trials: Sequence[Pair]
    """One for each neuron."""
    words: Mapping[str, Sequence[Description]]
    """By method, one for each neuron."""
    tested: str = "test"
    """The split that the trials judge on."""

    def using(self, words: Mapping[str, Sequence[Description]]) -> Case:
        """The same with other descriptions."""
        return replace(self, words=words)

    def drawn(self, *, tested: str | None = None, seed: int = 0, **options: Any) -> Case:
        """The same with other trials.

        Args:
            tested: the split to judge on; the same where there is none.
            seed: of the draws.
            options: of :func:`pairs`.
        """
        split = self.tested if tested is None else tested
        trials = pairs(
            self.text, self.polarity, tested=split, layer=self.layer, seed=seed, **options
        )
        return replace(self, trials=trials, tested=split)


def judge(cases: Sequence[Case], kernels: Kernels) -> pd.DataFrame:
    """How well each description tells: AUROC, balanced accuracy, Pearson on the tested text.

    Returns:
        One row per method, neuron, polarity and kernel; neurons with too few positives are left
        out. ``text`` is the split that was tested. The cut of balanced accuracy is the validation
        text's. ``told`` is the share of the trial's positions where anything is predicted: with the
        exact kernel, those with a token of the description.
    """
    import pandas as pd

    rows = []
    for case in cases:
        for method, descriptions in case.words.items():
            for i, (some, pair) in enumerate(zip(descriptions, case.trials, strict=True)):
                if not pair:
                    continue
                head = _head(case, i) | {"method": method, "empty": not some.ids}
                for kernel in KERNELS:
                    validation, test = (
                        _predicted(kernels, some, t, kernel) for t in (pair.validation, pair.test)
                    )
                    found = scores((validation, pair.validation), (test, pair.test))
                    found["told"] = (test > 0).double().mean().item()
                    rows.append(head | {"kernel": kernel} | found)
    return pd.DataFrame(rows)


def judge_frequency(cases: Sequence[Case]) -> pd.DataFrame:
    """The control that knows no neuron: log frequency of the token in the train text.

    Whether a frequent or a rare token speaks for the neuron is chosen on validation text.

    Returns:
        As :func:`judge`, the same for both kernels.
    """
    import pandas as pd

    rows = []
    for case in cases:
        seen = torch.cat([some.windows.tokens.flatten() for some in case.text.values()])
        train = case.text["train"].windows.tokens.flatten()
        log = torch.bincount(train, minlength=int(seen.max()) + 1).float().log1p()
        for i, pair in enumerate(case.trials):
            if not pair:
                continue
            validation, test = log[pair.validation.token], log[pair.test.token]
            way = 1 if auroc(validation, pair.validation.label) >= 0.5 else -1
            found = scores((way * validation, pair.validation), (way * test, pair.test))
            head = _head(case, i) | {"method": "token frequency", "empty": False, "told": 1.0}
            rows += [head | {"kernel": kernel} | found for kernel in KERNELS]
    return pd.DataFrame(rows)


def coverage(cases: Sequence[Case]) -> pd.DataFrame:
    """One row per layer and polarity: neurons judged, skipped, and how gate goes where they fire.

    ``text`` is the split that was tested. ``gate > 0`` is the share of its trials' positives where
    ``g . x`` is positive: what :func:`~rotate_core.experiments.descriptions.weights.side` takes for
    granted.
    """
    import pandas as pd

    rows = []
    for case in cases:
        gate, positive = case.text[case.tested].gate, []
        for i, pair in enumerate(case.trials):
            if pair and gate is not None:
                positive.append(gate[pair.test.position[pair.test.label == 1], i] > 0)
        rows.append(
            {
                "text": case.tested,
                "layer": case.layer,
                "polarity": case.polarity,
                "judged": sum(map(bool, case.trials)),
                "skipped": sum(not pair for pair in case.trials),
                "gate > 0": torch.cat(positive).double().mean().item() if positive else None,
            }
        )
    return pd.DataFrame(rows)


def _head(case: Case, i: int) -> dict[str, Any]:
    neuron = case.neurons[i]
    cluster = f"{case.layer}/{neuron}"
    return {
        "text": case.tested,
        "layer": case.layer,
        "neuron": neuron,
        "cluster": cluster,
        "polarity": case.polarity,
    }


def _predicted(
    kernels: Kernels, description: Description, some: Trial, kernel: str
) -> Float[Tensor, " n"]:
    return kernels.predict(description, some.token, kernel, previous=some.previous)
