"""Do other fits find the same features?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from rotate_core.dictionaries.factors import Factors

if TYPE_CHECKING:
    import pandas as pd


def stability(fits: Sequence[Factors]) -> pd.DataFrame:
    """The features of every two fits, paired so that their cosines are largest in sum.

    Beside nothing to compare with this says little: a fit of shuffled activations, or of a Gaussian
    of the same covariance, agrees with another of its kind too. See :mod:`.surrogates`.

    Args:
        fits: two or more, of as many features of the same layer; of seeds, say.

    Returns:
        One row per pair of fits and feature of the first: first, second (positions in ``fits``),
        feature, partner, cosine, jaccard (of their supports).

    Raises:
        ValueError: one fit alone, or fits of other shapes.
    """
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    shapes = {tuple(fit.vectors.shape) for fit in fits}
    if len(fits) < 2 or len(shapes) > 1:
        raise ValueError(f"{len(fits)} fits of shapes {shapes}: wanted two or more of one shape")
    columns = ["first", "second", "feature", "partner", "cosine", "jaccard"]
    rows = []
    for (i, a), (j, b) in combinations(enumerate(fits), 2):
        cosine = torch.nn.functional.cosine_similarity(a.vectors[:, None], b.vectors, dim=2)
        for p, q in zip(*linear_sum_assignment(cosine.numpy(), maximize=True), strict=True):
            one, other = (set(fit.support[k].tolist()) for fit, k in ((a, p), (b, q)))
            jaccard = len(one & other) / len(one | other)
            rows.append((i, j, int(p), int(q), cosine[p, q].item(), jaccard))
    return pd.DataFrame(rows, columns=columns)
