"""Contests of methods on each text, and how much hangs on the thresholds (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import from_activations
from rotate_core.experiments.descriptions.head_to_head import DescribedNeurons, score_descriptions
from rotate_core.experiments.descriptions.kernels import KERNELS, Kernels
from rotate_core.experiments.descriptions.methods import read_by
from rotate_core.experiments.descriptions.trials import MARGIN, win_ratio, wins
from rotate_core.verdicts.intervals import holm, interval, sign_flip

if TYPE_CHECKING:
    import pandas as pd

MEASURES = {"AUROC": "auroc", "balanced accuracy": "accuracy", "Pearson": "pearson"}
"""Of a description, by the columns of :func:`.head_to_head.score_descriptions`."""


def means(table: pd.DataFrame, methods: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Mean scores of each method over all neurons and polarities judged on a text.

    Args:
        table: of :func:`.head_to_head.score_descriptions`; of several texts one below the other.
        methods: in the order of the rows.
        seed: of the resampling.

    Returns:
        One row per kernel, method and text: its :data:`MEASURES` as Estimates, clustered by neuron,
        and the shares ``empty`` (descriptions without a token) and ``told`` (positions where
        anything is predicted).
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    parts = dict(list(table.groupby(["kernel", "method", "text"])))
    for keys in product(KERNELS, methods, table.text.unique()):
        row = dict(zip(("kernel", "method", "text"), keys, strict=True))
        for name, column in MEASURES.items():
            row[name] = interval(parts[keys][column], parts[keys].cluster, seed=seed)
        rows.append(row | dict(parts[keys][["empty", "told"]].mean()))
    return pd.DataFrame(rows)


def contests(
    table: pd.DataFrame,
    matches: Sequence[tuple[str, str]],
    *,
    margin: float = MARGIN,
    seed: int = 0,
) -> pd.DataFrame:
    """One method against another, by text and kernel: won, tied, lost, the ratio, the gap, its p.

    Args:
        table: of :func:`.head_to_head.score_descriptions`; of several texts one below the other.
        matches: (ours, against), methods.
        margin: of AUROC, within which there is a tie.
        seed: of the resampling.

    Returns:
        ``ratio`` and ``gap`` are Estimates, clustered by neuron; ``holm`` is over all rows. Empty
        where no neuron was tested.
    """
    import pandas as pd

    if table.empty:
        return table
    rows: list[dict[str, Any]] = []
    for text, kernel in product(table.text.unique(), KERNELS):
        part = table[(table.text == text) & (table.kernel == kernel)]
        wide = part.pivot(index=["cluster", "polarity"], columns="method", values="auroc")
        clusters = wide.index.get_level_values("cluster")
        for ours, against in matches:
            gaps = (wide[ours] - wide[against]).to_numpy()
            row: dict[str, Any] = {"text": text, "kernel": kernel, "ours": ours, "against": against}
            row |= dict(zip(("won", "tied", "lost"), wins(gaps, margin=margin), strict=True))
            row["ratio"] = win_ratio(gaps, clusters, margin=margin, seed=seed)
            row["gap"] = interval(gaps, clusters, seed=seed)
            rows.append(row | {"p": sign_flip(gaps, clusters, seed=seed)})
    results = pd.DataFrame(rows)
    return results.assign(holm=holm(results.p))


THRESHOLDS: dict[str, tuple[float, ...]] = {
    "MaxAct's share": (0.1, 0.3, 0.5),  # of the maximum
    "quantile of positives": (0.98, 0.99, 0.995),  # of the train text: a positive is above it
    "budget": (10, 25, 50),  # tokens of a description
    "q of supported channels": (0.05, 0.1, 0.2),
    "margin of a win": (0.0, 0.01, 0.05),  # of AUROC
}
"""Each beside what is fixed in this chapter."""


def sensitivity(
    described: Sequence[DescribedNeurons],
    channels: Mapping[int, Mapping[str, Channels]],
    kernels: Kernels,
    *,
    against: str = "MaxAct",
    seed: int = 0,
) -> pd.DataFrame:
    """The contest of channels against another method under other :data:`THRESHOLDS`, one at a time.

    Args:
        described: neurons with descriptions by "channels" and by the other method.
        channels: by layer and kind, what the former were made of.
        kernels: that descriptions predict by.
        against: the other method; MaxAct's share is changed for MaxAct alone.
        seed: of the trials and of the resampling.

    Returns:
        One row per threshold and value: won, tied, lost and the gap in AUROC, by kernel; empty
        where no neuron can be tested, as with little text.
    """
    import pandas as pd

    rows = []
    methods = ("channels", against)
    for threshold, value in [(name, v) for name in THRESHOLDS for v in THRESHOLDS[name]]:
        if threshold == "MaxAct's share" and against != "MaxAct":
            continue
        changed = [_changed(n, channels[n.layer], threshold, value, seed) for n in described]
        scores = score_descriptions(changed, kernels, methods)
        margin = value if threshold == "margin of a win" else MARGIN
        row: dict[str, Any] = {"against": against, "threshold": threshold, "value": value}
        for result in contests(scores, [methods], margin=margin, seed=seed).itertuples():
            counts = f"{result.won} / {result.tied} / {result.lost}"
            row[f"{result.kernel}: won / tied / lost"] = counts
            row[f"{result.kernel}: gap"] = result.gap
        rows.append(row)
    return pd.DataFrame(rows)


def _changed(
    neurons: DescribedNeurons,
    channels: Mapping[str, Channels],
    threshold: str,
    value: float,
    seed: int,
) -> DescribedNeurons:
    """The same neurons with what one threshold changes of their descriptions or trials."""
    if threshold == "MaxAct's share":
        train, tokens = neurons.text["train"], channels["in"].vocabulary.tokens
        read = from_activations(train, tokens, polarity=neurons.polarity, share=value)
        return neurons.using({"MaxAct": read})
    if threshold == "quantile of positives":
        return neurons.drawn(quantile=value, seed=seed)
    if threshold == "budget":
        cut = {m: [d.first(int(value)) for d in ds] for m, ds in neurons.descriptions.items()}
        return neurons.using(cut)
    if threshold == "q of supported channels":
        return neurons.using({"channels": read_by(channels, neurons.polarity, level=value)})
    return neurons
