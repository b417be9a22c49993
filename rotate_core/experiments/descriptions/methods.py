"""All methods at once: what the neurons of a layer are described by (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import (
    Text,
    from_activations,
    from_clamping,
    optimised,
)
from rotate_core.experiments.descriptions.head_to_head import (
    DescribedNeurons,
    best_of,
    draw_trials,
    validation_score,
)
from rotate_core.experiments.descriptions.kernels import Kernels
from rotate_core.experiments.descriptions.trials import HeldOut
from rotate_core.experiments.descriptions.weights import (
    POLARITIES,
    Description,
    describe,
    from_projection,
    from_rotations,
    merge,
    product_polarity,
)
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.null.matched import own_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = {
    "ours": ("channels", "supported channels"),
    "weights": (
        "projection, gate", "projection, in", "projection, out", "projection, gate and in",
        "projection, best",
    ),
    "text": ("MaxAct", "MaxAct, optimised", "TokenChange"),
    "weights and text": ("MaxAct+VocabProj",),
    "controls": (
        "another neuron", "matched vector", "matched rotation", "token frequency", "oracle",
    ),
}  # fmt: skip
"""Names of the methods, and where they come from."""


def describe_neurons(
    network: PreTrainedModel,
    layer: int,
    channels: Mapping[str, Channels],
    null: Mapping[str, Channels],
    out: Float[Tensor, "n_neurons d_model"],
    text: Mapping[str, Text],
    kernels: Kernels,
    *,
    level: float = SIGNIFICANT,
    n_contexts: int = 16,
    n_subsets: int = 50,
    seed: int = 0,
) -> list[DescribedNeurons]:
    """The neurons of a layer by every method but token frequency, with their trials.

    Args:
        network: their model, loaded by transformers.
        layer: of the neurons.
        channels: of the neurons by kind, gate (where there is one) and in.
        null: of matched vectors, by kind.
        out: the neurons' out vectors.
        text: what the neurons do on train, validation and test text.
        kernels: by which choices are made on validation text: the mean of both.
        level: q-value below which a channel is supported.
        n_contexts: texts in which TokenChange clamps a neuron.
        n_subsets: sets of exemplars that MaxAct-optimised tries.
        seed: of all draws; each layer, neuron and polarity draws by itself.

    Returns:
        One for each polarity: both where the neurons are gated, else the positive one.
    """
    train, vocabulary, indices = text["train"], channels["in"].vocabulary, channels["in"].indices
    clamped = from_clamping(network, layer, train, out, vocabulary, n_contexts=n_contexts)
    described = []
    for polarity in POLARITIES if "gate" in channels else ("positive",):
        trials = draw_trials(text, polarity, layer=layer, seed=seed)
        scores = [partial(validation_score, kernels, own) for own in trials]
        descriptions = from_weights(channels, null, out, polarity=polarity, level=level, seed=seed)
        descriptions |= {
            "MaxAct": from_activations(train, vocabulary.tokens, polarity=polarity),
            "MaxAct, optimised": optimised(
                train, vocabulary.tokens, scores,
                polarity=polarity, n_subsets=n_subsets, seed=own_seed(seed, layer),
            ),
            "TokenChange": clamped[polarity],
            "oracle": from_activations(text["test"], vocabulary.tokens, polarity=polarity),
        }  # fmt: skip
        descriptions |= chosen_by_validation(descriptions, trials, kernels)
        described.append(DescribedNeurons(layer, polarity, indices, text, trials, descriptions))
    return described


def from_weights(
    channels: Mapping[str, Channels],
    null: Mapping[str, Channels],
    out: Float[Tensor, "n_neurons d_model"],
    *,
    polarity: str,
    level: float = SIGNIFICANT,
    seed: int = 0,
) -> dict[str, list[Description]]:
    """All descriptions of a layer's neurons that need no text, by method, controls included.

    Arguments are those of :func:`describe_neurons`. Matched vectors stand in the neurons' places
    one after the other. Each layer, kind and polarity draws rotations by itself.
    """
    projected, rotated = {}, []
    for kind, of_kind in channels.items():
        own = product_polarity(kind, polarity)
        projected[kind] = from_projection(of_kind.weight_vectors, of_kind.vocabulary, polarity=own)
        own_draw = own_seed(seed, str(of_kind.layer), kind, polarity)
        rotated.append(from_rotations(of_kind, polarity=own, seed=own_draw))
    every, matched = (read_by(group, polarity, level=1) for group in (channels, null))
    descriptions = {
        "channels": every,
        "supported channels": read_by(channels, polarity, level=level),
        "another neuron": every[1:] + every[:1],
        "matched vector": [matched[i % len(matched)] for i in range(len(out))],
        "matched rotation": merge(*rotated),
        "projection, out": from_projection(out, channels["in"].vocabulary, polarity=polarity),
    }
    if "gate" in projected:
        descriptions["projection, gate and in"] = merge(*projected.values())
    return descriptions | {f"projection, {kind}": lists for kind, lists in projected.items()}


def read_by(channels: Mapping[str, Channels], polarity: str, *, level: float) -> list[Description]:
    """Each neuron by its supported channels of gate and in, in turns; see :func:`.describe`."""
    lists = [
        describe(of_kind, polarity=product_polarity(kind, polarity), level=level)
        for kind, of_kind in channels.items()
    ]
    return merge(*lists)


def chosen_by_validation(
    descriptions: Mapping[str, Sequence[Description]], trials: Sequence[HeldOut], kernels: Kernels
) -> dict[str, list[Description]]:
    """Two methods that rest on a choice made on validation text.

    "projection, best": of gate, in and out, for each neuron and polarity, as MaxAct-optimised makes
    its own choice. "MaxAct+VocabProj": the tokens of MaxAct and of that projection in turns, within
    one budget. The paper names this baseline; how it joins the two is ours, as its code is not
    public. Its optimised form, MaxAct++, is not here: nothing is known of its recipe.
    """
    projections = [f"projection, {kind}" for kind in ("gate", "in", "out")]
    lists = [descriptions[name] for name in projections if name in descriptions]
    best = best_of(lists, trials, kernels)
    return {"projection, best": best, "MaxAct+VocabProj": merge(descriptions["MaxAct"], best)}


def on_another_text(
    neurons: DescribedNeurons, split: str, tokens: Sequence[str], *, seed: int = 0
) -> DescribedNeurons:
    """The same descriptions, judged on text from another source; the oracle has read that text.

    Args:
        neurons: described by train and validation text.
        split: name of the other text.
        tokens: strings of the vocabulary.
        seed: of the trials.
    """
    oracle = from_activations(neurons.text[split], tokens, polarity=neurons.polarity)
    return neurons.using({"oracle": oracle}).drawn(tested=split, seed=seed)
