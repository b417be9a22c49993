"""Which sentences are about a concept? Every method's candidates on one task (chapter 15).

A sentence's score is a candidate's largest reading over its tokens. Of each concept the candidate
is chosen that ranks its sentences highest among those of all concepts in one half of them; what
counts is the other half, of other words in other templates. Among many candidates some rank high by
chance, so the best of as many random ones is chosen by the same rule, and subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from rotate_core.dictionaries.candidates import Candidates, Sites
from rotate_core.experiments.concept_sets import strongest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def auroc(values: Float[Tensor, "n k"], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each column: the chance that a positive row is above another one; ties count half."""
    ranks = rankdata(values.numpy(), axis=0)
    n, m = positive.sum(), (~positive).sum()
    return (ranks[positive].sum(0) - n * (n + 1) / 2) / (n * m)


def detection(
    candidates: Candidates,
    halves: Sequence[Sites],
    concepts: Sequence[Sequence[str]],
    *,
    n_chance: int,
    seed: int,
) -> pd.DataFrame:
    """For each concept, how well the candidate chosen in one half finds it in the other.

    Args:
        candidates: of one method.
        halves: activations of the sentences to choose on, and of those to test on.
        concepts: of each half's sentences.
        n_chance: sets of random candidates that the same is done with; at least one.
        seed: of these.

    Returns:
        One row per concept: concept, candidate (its number), label, same (its AUROC where it was
        chosen), held_out, chance (of the best random one, held out; mean over the sets),
        chance_candidate (that one in the first set, ``candidates.chance(seed)``) and score (S_CD;
        NaN where it is undefined).
    """
    import pandas as pd

    ours = chosen(candidates, halves, concepts)
    sets = [chosen(candidates.chance(seed + i), halves, concepts) for i in range(n_chance)]
    chance = pd.concat(sets).groupby("concept").held_out.mean()
    table = ours.assign(
        method=candidates.method,
        label=[candidates.labels[i] for i in ours.candidate],
        chance=ours.concept.map(chance),
        chance_candidate=ours.concept.map(sets[0].set_index("concept").candidate),
    )
    order = ["method", "concept", "candidate", "label", "same", "held_out"]
    return table[[*order, "chance", "chance_candidate", "score"]]


def chosen(
    candidates: Candidates, halves: Sequence[Sites], concepts: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """The best candidate of each concept by the first half, and its figures in both."""
    import pandas as pd

    values = [sentence_scores(candidates, x) for x in halves]
    labels = [np.array(half) for half in concepts]
    rows = []
    for concept in dict.fromkeys(concepts[0]):
        inside = [names == concept for names in labels]
        same, held_out = (auroc(v, part) for v, part in zip(values, inside, strict=True))
        best = int(same.argmax())
        score = concept_score(values[1][:, best].numpy(), inside[1])
        rows.append((concept, best, same[best], held_out[best], score))
    return pd.DataFrame(rows, columns=["concept", "candidate", "same", "held_out", "score"])


def sentence_scores(candidates: Candidates, x: Sites) -> Float[Tensor, "n_sentences n"]:
    """The largest reading over the tokens of each sentence."""
    return strongest(candidates.read(x).float(), next(iter(x.values())))


def concept_score(values: NDArray[np.floating], inside: NDArray[np.bool_]) -> float:
    """S_CD: the log of the mean over a concept's sentences over that of the others.

    NaN where one of the two means is not above 0.

    Source: arXiv:2506.10920, there of cosines; here of whatever a method reads.
    """
    means = values[inside].mean(), values[~inside].mean()
    return math.log(means[0] / means[1]) if min(means) > 0 else math.nan
