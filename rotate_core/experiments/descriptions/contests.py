"""Who wins by how much, on which text, and how that hangs on the thresholds (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import from_activations
from rotate_core.experiments.descriptions.head_to_head import Case, judge
from rotate_core.experiments.descriptions.kernels import KERNELS, Kernels
from rotate_core.experiments.descriptions.trials import MARGIN, win_ratio, wins
from rotate_core.experiments.descriptions.weights import Description, describe, merge, side
from rotate_core.verdicts.intervals import holm, interval, sign_flip

if TYPE_CHECKING:
    import pandas as pd


MEASURES = {"AUROC": "auroc", "balanced accuracy": "accuracy", "Pearson": "pearson"}
"""Of a description, by the columns of :func:`.head_to_head.judge`."""


def means(table: pd.DataFrame, methods: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """How well each method tells, over all neurons and polarities judged on a text.

    Args:
        table: of :func:`~rotate_core.experiments.descriptions.head_to_head.judge`; of several texts
            one below the other.
        methods: in the order of the rows.
        seed: of the resampling.

    Returns:
        One row per kernel, method and text: its :data:`MEASURES` as Estimates, clustered by neuron,
        and the shares ``empty`` (descriptions without a token) and ``told`` (positions where
        anything is predicted).
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for kernel, method, text in product(KERNELS, methods, table.text.unique()):
        here = (table.kernel == kernel) & (table.method == method) & (table.text == text)
        part = table[here]
        row: dict[str, Any] = {"kernel": kernel, "method": method, "text": text}
        for name, column in MEASURES.items():
            row[name] = interval(part[column], part.cluster, seed=seed)
        rows.append(row | {"empty": part["empty"].mean(), "told": part.told.mean()})
    return pd.DataFrame(rows)


def contests(
    table: pd.DataFrame,
    sides: Sequence[tuple[str, str]],
    *,
    margin: float = MARGIN,
    seed: int = 0,
) -> pd.DataFrame:
    """One method against another, by text and kernel: won, tied, lost, the ratio, the gap, its p.

    Args:
        table: of :func:`~rotate_core.experiments.descriptions.head_to_head.judge`; of several texts
            one below the other.
        sides: (ours, other), methods.
        margin: of AUROC, within which there is a tie.
        seed: of the resampling.

    Returns:
        ``ratio`` and ``gap`` are Estimates, clustered by neuron; ``holm`` is over all rows.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for text, kernel in product(table.text.unique(), KERNELS):
        part = table[(table.text == text) & (table.kernel == kernel)]
        wide = part.pivot(index=["cluster", "polarity"], columns="method", values="auroc")
        clusters = wide.index.get_level_values("cluster")
        for ours, other in sides:
            gaps = (wide[ours] - wide[other]).to_numpy()
            won, tied, lost = wins(wide, ours, other, margin=margin)
            row: dict[str, Any] = {"text": text, "kernel": kernel, "ours": ours, "against": other}
            row |= {"won": won, "tied": tied, "lost": lost}
            row["ratio"] = win_ratio(gaps, clusters, margin=margin, seed=seed)
            row["gap"] = interval(gaps, clusters, seed=seed)
            rows.append(row | {"p": sign_flip(gaps, clusters, seed=seed)})
    found = pd.DataFrame(rows)
    found["holm"] = holm(found.p)
    return found


SHARES = (0.1, 0.3, 0.5)
"""MaxAct's share of the maximum."""
QUANTILES = (0.98, 0.99, 0.995)
"""Of the train text: a positive is above it."""
BUDGETS = (10, 25, 50)
"""Tokens of a description."""
LEVELS = (0.05, 0.1, 0.2)
"""Of the q-value of a supported channel."""
MARGINS = (0.0, 0.01, 0.05)
"""Of a win."""


def sensitivity(
    cases: Sequence[Case],
    channels: Mapping[int, Mapping[str, Channels]],
    kernels: Kernels,
    *,
    other: str = "MaxAct",
    seed: int = 0,
) -> pd.DataFrame:
    """The contest of channels against another method under other thresholds, one at a time.

    Args:
        cases: all of them, with descriptions by "channels" and by the other method.
        channels: by layer and kind, what the former were made of.
        kernels: as there.
        other: the other method; MaxAct's share is changed for MaxAct alone.
        seed: of the trials and of the resampling.

    Returns:
        One row per threshold and value: won, tied, lost and the gap in AUROC, by kernel.
    """
    import pandas as pd

    def both(case: Case) -> dict[str, Sequence[Description]]:
        return {"channels": case.words["channels"], other: case.words[other]}

    def activations(case: Case, share: float) -> list[Description]:
        train = case.text["train"]
        tokens = next(iter(channels[case.layer].values())).vocabulary.tokens
        return from_activations(
            train.windows, train.activation, tokens, polarity=case.polarity, share=share
        )

    def supported(case: Case, level: float) -> list[Description]:
        lists = [
            describe(some, polarity=side(kind, case.polarity), level=level)
            for kind, some in channels[case.layer].items()
        ]
        return [merge(some) for some in zip(*lists, strict=True)]

    variants: list[tuple[str, float, list[Case], float]] = []
    for share in SHARES if other == "MaxAct" else ():
        some = [c.using({**both(c), "MaxAct": activations(c, share)}) for c in cases]
        variants.append(("MaxAct's share", share, some, MARGIN))
    for quantile in QUANTILES:
        some = [c.using(both(c)).drawn(quantile=quantile, seed=seed) for c in cases]
        variants.append(("quantile of positives", quantile, some, MARGIN))
    for budget in BUDGETS:
        some = [
            c.using({name: [d.first(budget) for d in ds] for name, ds in both(c).items()})
            for c in cases
        ]
        variants.append(("budget", budget, some, MARGIN))
    for level in LEVELS:
        some = [c.using({**both(c), "channels": supported(c, level)}) for c in cases]
        variants.append(("q of supported channels", level, some, MARGIN))
    same = [c.using(both(c)) for c in cases]
    variants += [("margin of a win", margin, same, margin) for margin in MARGINS]

    rows: list[dict[str, Any]] = []
    for name, value, some, margin in variants:
        found = contests(judge(some, kernels), [("channels", other)], margin=margin, seed=seed)
        row: dict[str, Any] = {"against": other, "threshold": name, "value": value}
        for result in found.itertuples():
            row[f"{result.kernel}: won / tied / lost"] = (
                f"{result.won} / {result.tied} / {result.lost}"
            )
            row[f"{result.kernel}: gap"] = str(result.gap)
        rows.append(row)
    return pd.DataFrame(rows)
