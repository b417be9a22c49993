"""Descriptions of a neuron that are read off text, or off what the model does (chapter 10).

The baselines of the paper that need activations: MaxAct, MaxAct with exemplars chosen on validation
text, and TokenChange. An exemplar is a window of text, at most one of a document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels, VocabularyLike
from rotate_core.experiments.descriptions.weights import BUDGET, Description, from_scores, sign_of
from rotate_core.experiments.output_logits import logit_drops
from rotate_core.null.matched import own_seed
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import activation_function, at_every_position

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.3
"""Of the largest activation: a token at or above it is described."""
N_EXEMPLARS = 20
"""Exemplars of MaxAct, at most."""
POOL, SIZES = 40, (10, 20)
"""Exemplars that MaxAct-optimised draws from, and how many it draws, at least and at most."""


@dataclass(frozen=True, eq=False)
class Text:
    """The windows of a split, and the activations of some neurons on them."""

    windows: Windows
    activation: Float[Tensor, "n_positions n_neurons"]
    """At the counted positions."""
    gate: Float[Tensor, "n_positions n_neurons"] | None = None
    """``g . x`` there, where the neurons are gated."""

    def by_window(self, polarity: str) -> Float[Tensor, "n_neurons n_windows n_counted"]:
        """Activations signed by the polarity, so that firing is positive."""
        signed = (self.activation * sign_of(polarity)).T
        return signed.unflatten(1, (len(self.windows), -1))


def read_texts(
    network: PreTrainedModel,
    windows: Mapping[str, Windows],
    channels: Mapping[int, Mapping[str, Channels]],
) -> dict[int, dict[str, Text]]:
    """Activations of the neurons of some layers on some texts: one pass over each text.

    Args:
        network: a loaded transformers model.
        windows: by split.
        channels: of the same neurons by layer and kind, gate (where there is one) and in.

    Returns:
        By layer and split.
    """
    vectors = {n: [c.weight_vectors for c in kinds.values()] for n, kinds in channels.items()}
    rows = {layer: torch.cat(of_layer) for layer, of_layer in vectors.items()}
    act = activation_function(network)
    texts: dict[int, dict[str, Text]] = {layer: {} for layer in channels}
    for split, of_split in windows.items():
        for layer, products in at_every_position(
            network, of_split.tokens, list(rows), rows=rows
        ).items():
            values = of_split.counted(products)
            gate, in_ = values.chunk(2, dim=1) if "gate" in channels[layer] else (None, values)
            activation = act(in_) if gate is None else act(gate) * in_
            texts[layer][split] = Text(of_split, activation, gate)
    return texts


def exemplars(
    activation: Float[Tensor, "n_windows n_counted"], document: Int[Tensor, " n_windows"], n: int
) -> Int[Tensor, " n_exemplars"]:
    """The windows where a neuron fires most, one of each document, the strongest first."""
    chosen: dict[int, int] = {}
    for window in activation.amax(1).argsort(descending=True).tolist():
        chosen.setdefault(int(document[window]), window)
    return torch.tensor(list(chosen.values())[:n])


def from_activations(
    text: Text, tokens: Sequence[str], *, polarity: str = "positive", share: float = SHARE
) -> list[Description]:
    """MaxAct: tokens at 0.3 of the maximum, in the 20 exemplars where the neuron fires most.

    Args:
        text: to read.
        tokens: strings of the vocabulary.
        polarity: of the activation.
        share: of the maximum.
    """
    descriptions = []
    for a in text.by_window(polarity):
        chosen = exemplars(a, text.windows.document, N_EXEMPLARS)
        descriptions.append(_firing_tokens(text.windows, a, chosen, tokens, share=share))
    return descriptions


def optimised(
    text: Text,
    tokens: Sequence[str],
    scores: Sequence[Callable[[Description], float]],
    *,
    polarity: str = "positive",
    n_subsets: int = 50,
    seed: int = 0,
) -> list[Description]:
    """MaxAct-optimised: the best of 50 random sets of exemplars, with or without the token before.

    Each set is 10 to 20 of the pool of exemplars (:data:`POOL`). "With" lists the token before each
    firing position as well, at half the positions: the budget is the same.

    Args:
        text: of the train split.
        tokens: strings of the vocabulary.
        scores: for each neuron, how good a description is on validation text.
        polarity: of the activation.
        n_subsets: sets that are tried.
        seed: of the draws; each neuron and polarity draws by itself.
    """
    best = []
    for i, (a, score) in enumerate(zip(text.by_window(polarity), scores, strict=True)):
        generator = torch.Generator().manual_seed(own_seed(seed, polarity, i))
        pool = exemplars(a, text.windows.document, POOL)
        candidates: dict[Description, None] = {}  # a set in the order of the draws
        for _ in range(n_subsets):
            size = int(torch.randint(SIZES[0], SIZES[1] + 1, (1,), generator=generator))
            chosen = pool[torch.randperm(len(pool), generator=generator)[:size]]
            for back in (False, True):
                candidate = _firing_tokens(text.windows, a, chosen, tokens, back=back)
                candidates[candidate] = None
        best.append(max(candidates, key=score))
    return best


def token_change(
    model: PreTrainedModel,
    layer: int,
    contexts: Int[Tensor, "n_contexts length"],
    activation: Float[Tensor, "n_contexts n_neurons"],
    target: Float[Tensor, " n_neurons"],
    out: Float[Tensor, "n_neurons d_model"],
) -> Float[Tensor, "n_neurons d_vocab"]:
    """TokenChange: mean change of the next token's logits when a neuron is clamped to a value.

    At the last token of a context, each neuron by itself: what its MLP writes changes by
    ``(target - a) v``.

    Args:
        model: a loaded transformers model.
        layer: of the neurons.
        contexts: from the start of a window on, as a is not what it was if the text before goes.
        activation: a, at their last tokens.
        target: what each neuron is clamped to.
        out: what each writes by, v.
    """
    change = torch.zeros(len(out), model.config.get_text_config().vocab_size)
    for context, a in zip(contexts, activation, strict=True):
        taken = (a - target)[:, None] * out
        change -= logit_drops(model, layer, context[None], torch.ones(1), taken)[0]
    return change / len(contexts)


def from_clamping(
    model: PreTrainedModel,
    layer: int,
    text: Text,
    out: Float[Tensor, "n_neurons d_model"],
    vocabulary: VocabularyLike,
    *,
    n_contexts: int = 16,
    length: int = 32,
) -> dict[str, list[Description]]:
    """Descriptions by TokenChange, for both polarities at once: the tokens that gain most.

    Clamped to the largest activation of the text for the positive polarity, to the smallest for the
    negative one, in the first ``n_contexts`` windows (each of another document, while they last).

    Returns:
        By polarity, one for each neuron.
    """
    n, windows = len(out), text.windows
    at_end = text.activation.view(len(windows), -1, n)[:n_contexts, length - 2]  # counted from 1 on
    target = torch.cat([text.activation.amax(0), text.activation.amin(0)])
    contexts = windows.tokens[:n_contexts, :length]
    change = token_change(model, layer, contexts, at_end.repeat(1, 2), target, out.repeat(2, 1))
    descriptions = from_scores(change[:, : len(vocabulary.tokens)], vocabulary)
    return {"positive": descriptions[:n], "negative": descriptions[n:]}


def exemplar_texts(
    text: Text, tokens: Sequence[str], *, polarity: str = "positive", n: int = 10, around: int = 12
) -> list[list[str]]:
    """For each neuron, texts around where it fires most, «that token» marked; one per document."""
    excerpts: list[list[str]] = []
    for a in text.by_window(polarity):
        excerpts.append([])
        for window in exemplars(a, text.windows.document, n).tolist():
            at = int(a[window].argmax()) + 1
            words = [tokens[i] for i in text.windows.tokens[window].tolist()]
            words[at] = f"«{words[at]}»"
            excerpts[-1].append("".join(words[max(1, at - around) : at + around + 1]))
    return excerpts


def _firing_tokens(
    windows: Windows,
    activation: Float[Tensor, "n_windows n_counted"],
    chosen: Int[Tensor, " n_exemplars"],
    tokens: Sequence[str],
    *,
    share: float = SHARE,
    back: bool = False,
) -> Description:
    """The tokens of the chosen windows where a is large, with their largest a as weight."""
    a, text = activation[chosen], windows.tokens[chosen]
    inside = (a >= share * a.max()) & (a > 0)
    read = [text[:, 1:-1], text[:, :-2]] if back else [text[:, 1:-1]]
    rows = zip(a[inside].tolist(), *(ids[inside].tolist() for ids in read), strict=True)
    best: dict[tuple[int, int], float] = {}
    for value, *ids in sorted(rows, reverse=True):
        for before, i in enumerate(ids):
            best.setdefault((i, before), value)
    keys = list(best)[:BUDGET]
    largest = max(best.values(), default=1.0)
    return Description(
        ids=tuple(i for i, _ in keys),
        weights=tuple(best[key] / largest for key in keys),
        tokens=tuple(tokens[i] for i, _ in keys),
        back=tuple(before for _, before in keys) if back else (),
    )
