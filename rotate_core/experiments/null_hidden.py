"""How hidden a planted channel may be and still be found, and certified (chapter 4, ours).

The core is a mean over the neuron's own projection ``U^T w``. So a channel whose tokens do not
stand out there has a small core, however well the rotation finds it: what is hidden in the raw
projection can hardly be certified. How hidden it is, is the mean z-score of its tokens in ``U^T w``
before the rotation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rotate_core.null.calibration import SIGNIFICANT, p_values, q_values
from rotate_core.verdicts.comparison import group_means

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]
SEEN = (2.0, 3.0, 4.0, 6.0)
"""Mean z-scores of planted tokens in ``U^T w`` that part what is taken together. Fixed when these
z-scores had been seen, and before any share was."""
TURNED_TO = "turned to"
"""The share of planted channels that the rotation finds, whatever a statistic says of them."""


def share_certified(
    planted: Values,
    fresh: Values,
    *,
    n_neurons: int = 25,
    n_null: int = 100,
    n_repeats: int = 200,
    seed: int = 0,
) -> Values:
    """How often each planted channel has q < 0.1 among neurons of which it is the only one.

    Args:
        planted: (n,) a statistic of planted channels; each is looked at by itself.
        fresh: the same of matched vectors: the null and the other neurons come from it.
        n_neurons: that q-values are over, the planted one included.
        n_null: matched vectors.
        n_repeats: draws of a null and of the others.
        seed: of the draws.

    Returns:
        (n,) shares of the draws.

    Raises:
        ValueError: fewer fresh vectors than a draw takes.
    """
    needed = n_null + n_neurons - 1
    if len(fresh) < needed:
        raise ValueError(f"{len(fresh)} fresh vectors: wanted at least {needed} for a draw")
    random, times = np.random.default_rng(seed), np.zeros(len(planted))
    values = torch.tensor(planted, dtype=torch.float64).unsqueeze(1)
    for _ in range(n_repeats):
        drawn = torch.tensor(random.permutation(fresh)[:needed]).double().unsqueeze(1)
        null, others = drawn[:n_null], drawn[n_null:]
        beside = p_values(others, null).expand(-1, len(planted))  # the same for each planted one
        times += (q_values(p_values(values, null).T, beside)[0] < SIGNIFICANT).numpy()
    return times / n_repeats


def least_certified(
    fresh: Values, *, most: float = 20.0, step: float = 0.05, **draws: int
) -> float:
    """The smallest value that is certified in at least half of the draws; NaN: none up to a limit.

    Args:
        fresh: as in :func:`share_certified`.
        most: the limit.
        step: between the values that are tried.
        draws: options of :func:`share_certified`.
    """
    tried = np.arange(0.0, most + step, step)
    often = share_certified(tried, fresh, **draws) >= 0.5
    return float(tried[often][0]) if often.any() else math.nan


def power_where_hidden(
    planted: pd.DataFrame, fresh: Mapping[str, Values], *, seed: int = 0, **draws: int
) -> pd.DataFrame:
    """Shares of planted channels found and certified, by how far out their tokens stood before.

    Args:
        planted: of :func:`.null_power.planted_statistics`, all sizes and strengths together.
        fresh: by statistic, its values of matched vectors' first channels.
        seed: of the draws, and of the intervals, which resample the vectors that were planted in.
        draws: other options of :func:`share_certified`.

    Returns:
        One row per step of :data:`SEEN` that has a channel, the most hidden first: seen (as it is
        read), n, and an `Estimate` each for :data:`TURNED_TO` and for every statistic.
    """
    import pandas as pd

    shares = {
        name: share_certified(planted[name].to_numpy(), values, seed=seed, **draws)
        for name, values in fresh.items()
    }
    labels = [f"below {SEEN[0]:g}"]
    labels += [f"{low:g} to {high:g}" for low, high in pairwise(SEEN)] + [f"{SEEN[-1]:g} or more"]
    steps = pd.cut(planted.seen, [-np.inf, *SEEN, np.inf], right=False, labels=labels).astype(str)
    columns = {"seen": steps, "cluster": planted.vector, TURNED_TO: planted.turned_to} | shares
    table = pd.DataFrame(columns).loc[planted.seen.sort_values().index]
    means = group_means(table, ["seen"], [TURNED_TO, *shares], seed=seed).reset_index()
    counts = table.seen.value_counts()
    means.insert(1, "n", [int(counts[step]) for step in means.seen])
    return means
