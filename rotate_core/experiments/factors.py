"""Factors of MLP activations: what they explain, whether they recur, what they detect (chapter 14).

Every figure stands beside that of shuffled neurons, none of which fire together, and of a Gaussian
with the activations' own mean and covariance, in which nothing but pairs of neurons does. Unseen
tokens have those of their own articles, so that other articles are as much of a change to it.

Source: arXiv:2506.10920 for the method and its claims. Measures and nulls are ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.decomposition import decompose
from rotate_core.dictionaries import Factors, hals, multiplicative, snmf, stability
from rotate_core.dictionaries.factor_start import start
from rotate_core.dictionaries.surrogates import gaussian, permuted_supports, shuffled
from rotate_core.experiments.concept_sets import strongest
from rotate_core.experiments.detection import auroc, concept_score
from rotate_core.experiments.kurtosis import kurtosis_of
from rotate_core.null import SIGNIFICANT, calibrate
from rotate_core.null.matched import own_seed
from rotate_core.rotation.threads import team
from rotate_core.text import Activations

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.channels import Channels
    from rotate_core.models import Model

DATA, SHUFFLED, GAUSSIAN = "activations", "shuffled neurons", "Gaussian surrogate"
CHEAPER = {"n_moves": 2, "start_tokens": 50, "progress": False}
"""Settings where many fits are compared; the same for activations and their nulls."""
ROUNDING = 1e-6
"""Of the energy: a loss that rises by less is not said to rise."""


Texts = dict[str, tuple[Activations, Activations]]
"""By what they are: tokens to fit, and tokens of other articles; activations first, then nulls."""


def with_nulls(train: Activations, test: Activations, *, seed: int) -> Texts:
    """Activations, their neurons shuffled, and Gaussians of their mean and covariance."""
    return {
        DATA: (train, test),
        SHUFFLED: (shuffled(train, seed=seed), shuffled(test, seed=seed)),
        GAUSSIAN: (gaussian(train, seed=seed), gaussian(test, seed=seed)),
    }


def beside_nulls(
    texts: Texts, n_features: int, *, seed: int, **settings: Any
) -> tuple[pd.DataFrame, pd.DataFrame, Factors]:
    """What two seeds' factors explain of unseen documents, and how far they agree, beside nulls.

    Returns:
        One row per kind of tokens and held-out document: what, document, explained (share of its
        energy), seen (of the tokens of the fit). One row per kind and feature: what, feature,
        cosine, jaccard, with its partner in the other seed's fit. And the first fit to activations.
    """
    import pandas as pd

    explained, agreements, first = [], [], None
    for what, (seen, unseen) in texts.items():
        fits = [snmf(seen, n_features, seed=seed + i, **CHEAPER | settings) for i in range(2)]
        first = first or fits[0]
        table = by_document(fits[0], unseen).assign(what=what, seen=fits[0].explained)
        explained.append(table)
        agreements.append(stability(fits).assign(what=what))
    assert first is not None
    return pd.concat(explained), pd.concat(agreements), first


def by_document(factors: Factors, x: Activations) -> pd.DataFrame:
    """The share of each document's energy that is explained: document, explained."""
    import pandas as pd

    scaled = factors.scaled(x.values)
    left = scaled - factors.scaled(factors.reconstruct(factors.encode(x)))
    sums = pd.DataFrame(
        {
            "document": x.document.numpy(),
            "left": left.square().sum(1).numpy(),
            "energy": scaled.square().sum(1).numpy(),
        }
    )
    sums = sums.groupby("document", as_index=False).sum()
    return sums.assign(explained=1 - sums.left / sums.energy)[["document", "explained"]]


def race(
    x: Float[Tensor, "n d"], n_features: int, share: float, *, n_iter: int, seed: int
) -> pd.DataFrame:
    """Exact steps from tokens and the paper's from chance: explained energy over seconds.

    The paper's are five times as many, as each gains less.

    Returns:
        One row per solver and iteration: solver, seconds (of the start too), explained, rose.
    """
    import pandas as pd

    total, n_kept = float(x.double().square().sum()), math.ceil(share * x.shape[1])
    rows = []
    for solver in ("exact steps", "multiplicative update"):
        exact = solver == "exact steps"
        generator = torch.Generator().manual_seed(own_seed(seed, "race"))
        begun, before = time.perf_counter(), math.inf
        # chunks side by side, or each product on all threads: as each solver is run
        with team(x.device) if exact else nullcontext():
            if exact:
                z = start(x, n_features, n_kept, how="tokens", generator=generator)
                sweeps = hals.fit(x, z, n_kept)
            else:
                y = torch.rand(n_features, len(x), generator=generator, dtype=x.dtype)
                sweeps = multiplicative.fit(x, y, n_kept)
            for sweep in islice(sweeps, n_iter if exact else 5 * n_iter):
                seconds, rose = time.perf_counter() - begun, sweep.loss - before
                rows.append((solver, seconds, 1 - sweep.loss / total, rose > ROUNDING * total))
                before = sweep.loss
    return pd.DataFrame(rows, columns=["solver", "seconds", "explained", "rose"])


# --- Concepts ----------------------------------------------------------------------------------


def concept_scores(
    factors: Factors, train: Activations, test: Activations, concepts: Sequence[Sequence[str]]
) -> Float[Tensor, " k"]:
    """S_CD of each feature, for the concept whose sentences it is most similar to in one half.

    Of the other half's sentences, by the largest cosine of a sentence's tokens with the feature.

    Source: arXiv:2506.10920, whose sentences and descriptions are a language model's; ours are not.
    """
    import numpy as np

    values = [strongest(_cosines(factors, x), x) for x in (train, test)]
    labels = [np.array(half) for half in concepts]
    names = list(dict.fromkeys(concepts[0]))
    areas = np.stack([auroc(values[0], labels[0] == name) for name in names])
    held_out = values[1].numpy()
    return torch.tensor(
        [
            concept_score(held_out[:, feature], labels[1] == names[best])
            for feature, best in enumerate(areas.argmax(0))
        ]
    )


def _cosines(factors: Factors, x: Activations) -> Float[Tensor, "n k"]:
    values, vectors = factors.scaled(x.values), factors.scaled(factors.vectors)
    return torch.nn.functional.normalize(values) @ torch.nn.functional.normalize(vectors).T


# --- What ROTATE says of them -------------------------------------------------------------------


def written_channels(
    factors: Factors, model: Model, layer: int, *, n_channels: int, seed: int
) -> tuple[Channels, Channels]:
    """Vocabulary channels of what features write, and of what as many random combinations write.

    Returns:
        The features' channels, calibrated against the others: the same values of other neurons.
    """
    vocabulary = model.vocabulary(layer, side="unembedding")
    null = permuted_supports(factors, seed=own_seed(seed, "written"))
    features, random = (
        decompose(f.written(model, layer), vocabulary, n_channels=n_channels, progress=False)
        for f in (factors, null)
    )
    return calibrate(features, random), random


def certified(channels: Channels) -> int:
    """Features whose first channel is beyond those of random combinations (q < 0.1)."""
    assert channels.q_value is not None
    return int((channels.q_value[:, 0] < SIGNIFICANT).sum())


def sharpness(features: Channels, random: Channels) -> pd.DataFrame:
    """Excess kurtosis of what features write and of what random ones do, before any rotation."""
    import pandas as pd

    return pd.DataFrame(
        {
            name: kurtosis_of(channels.weight_vectors, channels.vocabulary.projection).numpy()
            for name, channels in (("features", features), ("random", random))
        }
    )


def alike(
    factors: Factors, model: Model, layer: int, *, n_supports: int, n_neurons: int, seed: int
) -> pd.DataFrame:
    """Do neurons that a feature joins write alike? By out vectors, and by their first channels.

    Args:
        factors: of the model's layer.
        model: its weights.
        layer: from 0.
        n_supports: features, the largest ones.
        n_neurons: of each, the largest of its support that enter with the same sign.
        seed: of the random sets of as many neurons of the layer.

    Returns:
        One row per set: what ("support" or "random"), feature, weights and channels (mean cosine
        over pairs of neurons; of channels the absolute one, as a channel has two ends).
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(own_seed(seed, "alike"))
    order = factors.table().feature[:n_supports].tolist()
    sets: list[tuple[str, int, Int[Tensor, " n"]]] = []
    for feature in order:
        support = factors.support[feature]
        z = factors.vectors[feature, support]
        same = support[z.sign() == z[0].sign()][:n_neurons]
        random = torch.randperm(model.d_mlp, generator=generator)[: len(same)]
        sets += [("support", feature, same), ("random", feature, random)]
    indices = sorted({int(i) for *_, neurons in sets for i in neurons})
    w = model.neurons(layer, "out", indices).vectors
    channels = decompose(
        w, model.vocabulary(layer, side="unembedding"), n_channels=1, progress=False
    ).vectors[:, 0]
    place = {neuron: i for i, neuron in enumerate(indices)}
    rows = []
    for what, feature, neurons in sets:
        if len(neurons) > 1:
            some = [place[int(i)] for i in neurons]
            weights, turned = _pairs(w[some]), _pairs(channels[some]).abs()
            rows.append((what, feature, weights.mean().item(), turned.mean().item()))
    return pd.DataFrame(rows, columns=["what", "feature", "weights", "channels"])


def _pairs(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n_pairs"]:
    """Cosines of all pairs."""
    unit = torch.nn.functional.normalize(rows)
    i, j = torch.triu_indices(len(rows), len(rows), 1)
    return (unit @ unit.T)[i, j]
