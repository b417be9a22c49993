"""What every way to take a layer apart offers, on the same text (chapter 15).

Each method sees the same tokens of plain text, but for ROTATE, which sees weights alone, and the
difference of means, which is told the concept of the sentences that candidates are chosen on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.decomposition import decompose
from rotate_core.dictionaries import SAE, mfa, snmf
from rotate_core.dictionaries.candidates import (
    Candidates,
    Sites,
    Writing,
    difference_of_means,
    from_channels,
    from_factors,
    from_regions,
    from_sae,
)
from rotate_core.null import SIGNIFICANT, label, q_values

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.channels import Channels
    from rotate_core.models import Model
    from rotate_core.text import Activations

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Offer:
    """What a method offers, and what it took."""

    candidates: Candidates
    n_tokens: int = 0
    """Tokens of text that it saw."""
    n_labels: int = 0
    """Sentences whose concept it was told."""
    seconds: float = 0.0


TIMED_NEURONS = 4
"""Out vectors that are decomposed to say what all neurons of the atlas took: at most, as larger
batches take less for each."""


def offered(
    model: Model,
    layer: int,
    channels: Mapping[str, Channels],
    seen: Sites,
    told: Activations,
    concepts: Sequence[str],
    sae: tuple[SAE, float],
    *,
    n_features: int,
    n_regions: int,
    seed: int,
) -> list[Offer]:
    """All methods at one layer, those of weights first.

    Args:
        model: its weights.
        layer: from 0.
        channels: by kind, of the layer's neurons.
        seen: activations of plain text at "hidden" and "residual", for those that learn.
        told: activations at "mlp_out" of sentences whose concept is known, for those that are told.
        concepts: of these sentences.
        sae: a sparse autoencoder that learned from the same tokens, and its seconds.
        n_features: of SNMF, each of a twentieth of the neurons.
        n_regions: of MFA, of eight directions each.
        seed: of the fits.
    """
    quiet: dict[str, Any] = {"seed": seed, "progress": False}
    n = len(seen["hidden"])
    reading = [channels[kind] for kind in model.kinds if kind != "out"]
    out, each = channels["out"], _seconds_each(model, layer, channels["out"])
    offers = [
        Offer(from_channels(reading), seconds=each * sum(part.n_neurons for part in reading)),
        Offer(from_channels([out], model), seconds=each * out.n_neurons),
    ]
    factors, seconds = timed(
        lambda: snmf(seen["hidden"], n_features, share=0.05, scale_neurons=True, **quiet)
    )
    offers.append(Offer(from_factors(factors), n_tokens=n, seconds=seconds))
    regions, seconds = timed(lambda: mfa(seen["residual"], n_regions, rank=8, **quiet))
    offers += [
        Offer(from_regions(regions, parts=parts), n_tokens=n, seconds=seconds)
        for parts in ("centroids", "local")
    ]
    offers.append(Offer(from_sae(sae[0]), n_tokens=n, seconds=sae[1]))
    of_token = [concepts[i] for i in told.document]
    means, seconds = timed(lambda: difference_of_means(told.values, of_token, site="mlp_out"))
    return [*offers, Offer(means, n_labels=len(concepts), seconds=seconds)]


def labelled(
    offers: Sequence[Offer], model: Model, layer: int, *, n_null: int, seed: int
) -> pd.DataFrame:
    """Is what a method writes better read in the vocabulary than random vectors are?

    Of each method that learns: against random vectors of its own directions' covariance, and of
    that of the layer's out weights. ROTATE's channels were turned until they read well; their null
    is turned as well, and stands in chapter 4. The layer's neurons stand here as they are.

    Args:
        offers: of :func:`offered`.
        model: its weights.
        layer: from 0.
        n_null: random vectors of each.
        seed: of them.

    Returns:
        One row per method and null: method, null ("its own" or "the neurons'"), n, share (with
        q < 0.1).
    """
    import pandas as pd

    vocabulary = model.vocabulary(layer, side="unembedding")
    neurons = model.written(layer, model.neurons(layer, "out").vectors)
    directions = {"out weights, unrotated": neurons}
    for offer in offers:
        method, write = offer.candidates.method, offer.candidates.write
        if write is not None and not method.startswith("ROTATE"):
            directions[method] = written_directions(write, model, layer)
    options: dict[str, Any] = {"null": n_null, "seed": seed, "progress": False}
    # the neurons' null is the same for all: one pass over the vocabulary
    beside_neurons = label(torch.cat([*directions.values()]), vocabulary, like=neurons, **options)
    p_of_method = beside_neurons.p_value.split([len(rows) for rows in directions.values()])
    rows = []
    for (method, vectors), p in zip(directions.items(), p_of_method, strict=True):
        if vectors is not neurons:  # their own null is the neurons'
            own = label(vectors, vocabulary, **options)
            rows.append((method, "its own", len(vectors), own.significant()))
        significant = q_values(p.unsqueeze(1)) < SIGNIFICANT
        rows.append((method, "the neurons'", len(vectors), float(significant.double().mean())))
    return pd.DataFrame(rows, columns=["method", "null", "n", "share"])


def written_directions(write: Writing, model: Model, layer: int) -> Float[Tensor, "n d_model"]:
    """What candidates write to the residual stream; of points, where they are from the middle."""
    if write.site == "hidden":
        return model.written(layer, write.vectors @ model.neurons(layer, "out").vectors)
    return write.vectors - write.vectors.mean(0) if write.pull else write.vectors


def timed(make: Callable[[], Made]) -> tuple[Made, float]:
    """What a function makes, and its seconds."""
    begun = time.perf_counter()
    return make(), time.perf_counter() - begun


def _seconds_each(model: Model, layer: int, channels: Channels) -> float:
    """What decomposing one neuron takes, of a few at a time."""
    few = model.neurons(layer, str(channels.kind), channels.indices[:TIMED_NEURONS])
    vocabulary, n = model.vocabulary(layer), channels.n_channels
    made, seconds = timed(lambda: decompose(few, vocabulary, n_channels=n, progress=False))
    return seconds / made.n_neurons
