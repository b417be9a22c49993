"""How far two partitions of the same things agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def adjusted_rand_index(first: ArrayLike, second: ArrayLike) -> float:
    """Share of pairs that two partitions put together or apart alike, beyond chance.

    1 where they are the same up to names, 0 in the mean of random ones of the same sizes; NaN where
    both put everything together, or everything apart.

    Args:
        first: (n,) the part that each thing is in.
        second: (n,) the same of another partition.

    Source: Hubert and Arabie (1985). Ours, as scikit-learn, which has it, is no dependency.
    """
    (_, a), (_, b) = (np.unique(labels, return_inverse=True) for labels in (first, second))
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    together, rows, columns, every = (
        (counts * (counts - 1) / 2).sum()
        for counts in (table, table.sum(1), table.sum(0), table.sum(keepdims=True))
    )
    expected = rows * columns / every
    most = (rows + columns) / 2
    return float((together - expected) / (most - expected)) if most != expected else float("nan")
