"""All methods at once: what the neurons of a layer are described by (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import from_activations, optimised
from rotate_core.experiments.descriptions.head_to_head import (
    Case,
    Pair,
    Text,
    best_of,
    validation_score,
)
from rotate_core.experiments.descriptions.kernels import Kernels
from rotate_core.experiments.descriptions.weights import (
    BUDGET,
    Description,
    describe,
    from_projection,
    from_rotations,
    merge,
    side,
)
from rotate_core.null.matched import own_seed

GROUPS = {
    "ours": ("channels", "supported channels"),
    "weights": (
        "projection, gate",
        "projection, in",
        "projection, out",
        "projection, gate and in",
        "projection, best",
    ),
    "text": ("MaxAct", "MaxAct, optimised", "TokenChange"),
    "weights and text": ("MaxAct+VocabProj",),
    "controls": (
        "another neuron",
        "matched vector",
        "matched rotation",
        "token frequency",
        "oracle",
    ),
}
"""Names of the methods, and where they come from."""


def from_weights(
    channels: Mapping[str, Channels],
    null: Mapping[str, Channels],
    out: Float[Tensor, "n_neurons d_model"],
    *,
    polarity: str,
    level: float = 0.1,
    budget: int = BUDGET,
    seed: int = 0,
) -> dict[str, list[Description]]:
    """All descriptions of a layer's neurons that need no text, by method, controls included.

    Channels, supported or all, are those of the vectors that the neuron reads by, in turns.

    Args:
        channels: by kind, gate (where there is one) and in, of the same neurons.
        null: of matched vectors, one for each neuron: matched vectors in their place.
        out: the neurons' out vectors.
        polarity: of the activation.
        level: q-value below which a channel is supported.
        budget: tokens at most.
        seed: of the rotations; each layer, kind and polarity draws by itself.
    """
    sides = {kind: side(kind, polarity) for kind in channels}
    u = next(iter(channels.values())).vocabulary

    def joined(parts: Sequence[Sequence[Description]]) -> list[Description]:
        return [merge(some, budget=budget) for some in zip(*parts, strict=True)]

    def read(some: Mapping[str, Channels], level: float) -> list[Description]:
        return joined(
            [describe(some[k], polarity=s, level=level, budget=budget) for k, s in sides.items()]
        )

    def top(w: Tensor, way: str) -> list[Description]:
        return from_projection(
            w, u.projection, u.token_weights, u.tokens, polarity=way, budget=budget
        )

    found = {"channels": read(channels, 1), "supported channels": read(channels, level)}
    projected = {kind: top(channels[kind].weight_vectors, way) for kind, way in sides.items()}
    found |= {f"projection, {kind}": some for kind, some in projected.items()}
    found["projection, out"] = top(out, side("out", polarity))
    if len(projected) > 1:
        found["projection, gate and in"] = joined(list(projected.values()))
    found["another neuron"] = found["channels"][1:] + found["channels"][:1]
    found["matched vector"] = read(null, 1)
    rotated = []
    for k, s in sides.items():
        own = own_seed(seed, str(channels[k].layer), k, polarity)
        rotated.append(from_rotations(channels[k], polarity=s, budget=budget, seed=own))
    return found | {"matched rotation": joined(rotated)}


def from_text(
    text: Mapping[str, Text],
    trials: Sequence[Pair],
    kernels: Kernels,
    tokens: Sequence[str],
    *,
    polarity: str,
    layer: int,
    n_subsets: int = 50,
    budget: int = BUDGET,
    seed: int = 0,
) -> dict[str, list[Description]]:
    """Descriptions read off text, by method, and the oracle that has read the test text.

    Args:
        text: by split: train, validation, test.
        trials: of each neuron; MaxAct-optimised chooses on their validation part.
        kernels: by which it chooses: the mean of both.
        tokens: strings of the vocabulary.
        polarity: of the activation.
        layer: of the neurons.
        n_subsets: that MaxAct-optimised tries.
        budget: tokens at most.
        seed: of its draws; each layer, neuron and polarity draws by itself.
    """
    train = text["train"]
    return {
        "MaxAct": from_activations(
            train.windows, train.activation, tokens, polarity=polarity, budget=budget
        ),
        "MaxAct, optimised": optimised(
            train.windows,
            train.activation,
            tokens,
            lambda i, description: validation_score(kernels, trials[i], description),
            polarity=polarity,
            n_subsets=n_subsets,
            budget=budget,
            seed=own_seed(seed, layer),
        ),
        "oracle": oracle(text["test"], tokens, polarity=polarity, budget=budget),
    }


def oracle(
    tested: Text, tokens: Sequence[str], *, polarity: str, budget: int = BUDGET
) -> list[Description]:
    """The control that has read the text that it is judged on: MaxAct of that."""
    windows, activation = tested.windows, tested.activation
    return from_activations(windows, activation, tokens, polarity=polarity, budget=budget)


def with_choices(
    words: Mapping[str, Sequence[Description]],
    trials: Sequence[Pair],
    kernels: Kernels,
    *,
    budget: int = BUDGET,
) -> dict[str, Sequence[Description]]:
    """The methods, and two that rest on a choice made on validation text.

    "projection, best": of gate, in and out, for each neuron and polarity, as MaxAct-optimised makes
    its own choice. "MaxAct+VocabProj": the tokens of MaxAct and of that projection in turns, within
    one budget. The paper names this baseline; how it joins the two is ours, as its code is not
    public. Its optimised form, MaxAct++, is not here: nothing is known of its recipe.
    """
    kinds = [f"projection, {kind}" for kind in ("gate", "in", "out")]
    best = best_of([words[kind] for kind in kinds if kind in words], trials, kernels)
    joined = [merge(some, budget=budget) for some in zip(words["MaxAct"], best, strict=True)]
    return {**words, "projection, best": best, "MaxAct+VocabProj": joined}


def elsewhere(case: Case, split: str, tokens: Sequence[str], *, seed: int = 0) -> Case:
    """The same descriptions, judged on text from another source; the oracle has read that text.

    Args:
        case: descriptions, and the choices among them, made on train and validation text.
        split: the other text, by its name in the case's.
        tokens: strings of the vocabulary.
        seed: of the trials.
    """
    read = oracle(case.text[split], tokens, polarity=case.polarity)
    return case.using({**case.words, "oracle": read}).drawn(tested=split, seed=seed)
