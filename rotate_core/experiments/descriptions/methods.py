"""All methods at once: what the neurons of a layer are described by (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import from_activations, optimised
from rotate_core.experiments.descriptions.head_to_head import Pair, Text, best_of, validation_score
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
        null: of matched vectors, one for each neuron: virtual neurons in their place.
        out: the neurons' out vectors.
        polarity: of the activation.
        level: q-value below which a channel is supported.
        budget: tokens at most.
        seed: of the rotations.
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
    rotated = [  # of each kind by itself
        from_rotations(channels[k], polarity=s, budget=budget, seed=seed + n)
        for n, (k, s) in enumerate(sides.items())
    ]
    return found | {"matched rotation": joined(rotated)}


def from_text(
    text: Mapping[str, Text],
    trials: Sequence[Pair],
    kernels: Kernels,
    tokens: Sequence[str],
    *,
    polarity: str,
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
        n_subsets: that MaxAct-optimised tries.
        budget: tokens at most.
        seed: of its draws.
    """
    train, test = text["train"], text["test"]
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
            seed=seed,
        ),
        "oracle": from_activations(
            test.windows, test.activation, tokens, polarity=polarity, budget=budget
        ),
    }


def with_best_projection(
    words: Mapping[str, list[Description]], trials: Sequence[Pair], kernels: Kernels
) -> dict[str, list[Description]]:
    """The methods, and "projection, best": of gate, in and out what is best on validation text.

    The choice is made for each neuron and polarity, as MaxAct-optimised makes its own.
    """
    kinds = [f"projection, {kind}" for kind in ("gate", "in", "out")]
    lists = [words[kind] for kind in kinds if kind in words]
    return {**words, "projection, best": best_of(lists, trials, kernels)}
