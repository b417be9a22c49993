"""The order of methods on one text, beside that on another (chapter 10)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from rotate_core.experiments.descriptions.kernels import KERNELS
from rotate_core.verdicts.intervals import holm, sign_flip

if TYPE_CHECKING:
    import pandas as pd

ORDERS = ("kept", "reversed", "open", "unclear")
"""The order of two methods on a second text: clear and the same, clear and the opposite, not clear;
or not clear on the first."""
LEVEL = 0.05
"""Of the p-value of a clear order."""


def orders(table: pd.DataFrame, methods: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """The better of each two methods on one text, and whether it is better on another.

    On the neurons and polarities that are judged on both texts, so that a change of order is one of
    the methods and not of the neurons. The order of two methods is clear on a text where the mean
    difference of their AUROC has a p-value below 0.05: by flipping the signs of whole neurons, Holm
    over the pairs of a text and kernel.

    Args:
        table: of :func:`.head_to_head.score_descriptions`, two texts one below the other.
        methods: of which to take each two.
        seed: of the flips.

    Returns:
        One row per kernel and pair: ``kernel``, ``better`` and ``worse`` (by the mean on the first
        text), ``gap`` and ``other_gap`` (mean differences on either text), ``p`` and ``other_p``
        (Holm's), ``order`` (one of :data:`ORDERS`), ``n`` (trials judged on both texts).

    Raises:
        ValueError: the table has not two texts.
    """
    import pandas as pd

    texts = list(table.text.unique())
    if len(texts) != 2:
        raise ValueError(f"scores of {len(texts)} texts {texts}: wanted two")
    parts = []
    for kernel in KERNELS:
        part = table[(table.kernel == kernel) & table.method.isin(methods)]
        wide = part.pivot(index=["cluster", "polarity"], columns=["text", "method"], values="auroc")
        wide = wide.dropna()
        clusters = wide.index.get_level_values("cluster")
        rows: list[dict[str, Any]] = []
        for pair in combinations(methods, 2):
            worse, better = sorted(pair, key=lambda method: wide[texts[0]][method].mean())
            row: dict[str, Any] = {"kernel": kernel, "better": better, "worse": worse}
            for text, prefix in zip(texts, ("", "other_"), strict=True):
                gaps = (wide[text][better] - wide[text][worse]).to_numpy()
                row[f"{prefix}gap"] = gaps.mean()
                row[f"{prefix}p"] = sign_flip(gaps, clusters, seed=seed)
            rows.append(row)
        pairs = pd.DataFrame(rows)
        pairs["p"], pairs["other_p"] = holm(pairs.p), holm(pairs.other_p)
        answers = [pairs.p >= LEVEL, pairs.other_p >= LEVEL, pairs.other_gap < 0]
        pairs["order"] = np.select(answers, ["unclear", "open", "reversed"], default="kept")
        parts.append(pairs.assign(n=len(wide)))
    return pd.concat(parts, ignore_index=True)


def count_orders(ordered: pd.DataFrame) -> pd.DataFrame:
    """Number of pairs of methods with each of :data:`ORDERS`: one row per kernel."""
    import pandas as pd

    counted = pd.crosstab(ordered.kernel, ordered.order)
    return counted.reindex(index=KERNELS, columns=ORDERS, fill_value=0)


def order_in_words(counted: pd.DataFrame, first: str, second: str) -> str:
    """One sentence per kernel on whether the order of methods changes with the text.

    Args:
        counted: from :func:`count_orders`.
        first: name of the text whose clear orders are asked after.
        second: name of the other.
    """
    sentences = []
    for kernel, row in counted.iterrows():
        if row["reversed"]:
            what = "changes with the text"
        elif row["kept"]:
            what = "does not change where it is clear on both texts"
        else:
            what = "is clear for no pair on both texts, so whether it changes is not known"
        sentences.append(
            f"With the {kernel} kernel the order of methods {what}: of {row.sum()} pairs, "
            f"{row.sum() - row['unclear']} have a clear order on {first}, of which {second} keeps "
            f"{row['kept']}, reverses {row['reversed']} and leaves {row['open']} open."
        )
    return " ".join(sentences)
