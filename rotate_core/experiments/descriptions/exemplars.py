"""Descriptions of a neuron that are read off text, or off what the model does (chapter 10).

The baselines of the paper that need activations: MaxAct, MaxAct with exemplars chosen on validation
text, and TokenChange. An exemplar is a window of text, at most one of a document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.experiments.descriptions.weights import BUDGET, Description, from_scores, sign_of
from rotate_core.experiments.output_logits import logit_drops
from rotate_core.null.matched import own_seed
from rotate_core.text.corpus import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.3
"""Of the largest activation: a token at or above it is described."""
POOL = 40
"""Exemplars that MaxAct-optimised draws from."""
SIZES = (10, 20)
"""Exemplars that it draws, at least and at most."""


def previous(windows: Windows) -> Int[Tensor, " n_positions"]:
    """The token before each counted position of the windows."""
    return windows.tokens[:, :-2].flatten()


def exemplars(
    activation: Float[Tensor, "n_windows n_counted"], document: Int[Tensor, " n_windows"], n: int
) -> Int[Tensor, " n_exemplars"]:
    """The windows where a neuron fires most, one a document, the strongest first."""
    chosen: dict[int, int] = {}
    for window in activation.amax(1).argsort(descending=True).tolist():
        chosen.setdefault(int(document[window]), window)
    return torch.tensor(list(chosen.values())[:n])


def from_activations(
    windows: Windows,
    activation: Float[Tensor, "n_positions n_neurons"],
    tokens: Sequence[str],
    *,
    polarity: str = "positive",
    n_exemplars: int = 20,
    share: float = SHARE,
    budget: int = BUDGET,
) -> list[Description]:
    """MaxAct: tokens at 0.3 of the maximum, in the 20 exemplars where the neuron fires most.

    Args:
        windows: of text.
        activation: at their counted positions.
        tokens: strings of the vocabulary.
        polarity: of the activation.
        n_exemplars: at most.
        share: of the maximum.
        budget: tokens at most.
    """
    shape = (len(windows), -1)
    found = []
    for a in (activation * sign_of(polarity)).T:
        chosen = exemplars(a.view(shape), windows.document, n_exemplars)
        found.append(_listed(windows, a.view(shape), chosen, tokens, share, budget, back=False))
    return found


def optimised(
    windows: Windows,
    activation: Float[Tensor, "n_positions n_neurons"],
    tokens: Sequence[str],
    score: Callable[[int, Description], float],
    *,
    polarity: str = "positive",
    n_subsets: int = 50,
    share: float = SHARE,
    budget: int = BUDGET,
    seed: int = 0,
) -> list[Description]:
    """MaxAct-optimised: the best of 50 random sets of exemplars, with or without the token before.

    Each set is 10 to 20 of the pool of exemplars (:data:`POOL`). "With" lists the token before each
    firing position as well, at half the positions: the budget is the same.

    Args:
        windows: of train text.
        activation: at their counted positions.
        tokens: strings of the vocabulary.
        score: of a neuron (its row) and a description, on validation text.
        polarity: of the activation.
        n_subsets: sets that are tried.
        share: of the largest activation of a set.
        budget: tokens at most.
        seed: of the draws; each neuron and polarity draws by itself.
    """
    shape = (len(windows), -1)
    found = []
    for i, a in enumerate((activation * sign_of(polarity)).T):
        generator = torch.Generator().manual_seed(own_seed(seed, polarity, i))
        pool = exemplars(a.view(shape), windows.document, POOL)
        tried: dict[Description, float] = {}
        for _ in range(n_subsets):
            size = int(torch.randint(SIZES[0], SIZES[1] + 1, (1,), generator=generator))
            chosen = pool[torch.randperm(len(pool), generator=generator)[:size]]
            for back in (False, True):
                some = _listed(windows, a.view(shape), chosen, tokens, share, budget, back=back)
                if some not in tried:
                    tried[some] = score(i, some)
        found.append(max(tried, key=lambda some: tried[some]))
    return found


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
    one = torch.ones(1)
    for row, a in zip(contexts, activation, strict=True):
        taken = (a - target)[:, None] * out
        change -= logit_drops(model, layer, row[None], one, taken)[0]
    return change / len(contexts)


def from_clamping(
    model: PreTrainedModel,
    layer: int,
    windows: Windows,
    activation: Float[Tensor, "n_positions n_neurons"],
    out: Float[Tensor, "n_neurons d_model"],
    token_weights: Float[Tensor, " d_vocab"],
    tokens: Sequence[str],
    *,
    n_contexts: int = 16,
    length: int = 32,
    budget: int = BUDGET,
) -> dict[str, list[Description]]:
    """Descriptions by TokenChange, for both polarities at once: the tokens that gain most.

    Clamped to the largest activation of the text for the positive polarity, to the smallest for the
    negative one, in the first ``n_contexts`` windows (each of another document, while they last).

    Returns:
        By polarity, one for each neuron.
    """
    n = activation.shape[1]
    at_end = activation.view(len(windows), -1, n)[:n_contexts, length - 2]  # counted from 1 on
    target = torch.cat([activation.amax(0), activation.amin(0)])
    change = token_change(
        model,
        layer,
        windows.tokens[:n_contexts, :length],
        at_end.repeat(1, 2),
        target,
        out.repeat(2, 1),
    )[:, : len(tokens)]
    found = from_scores(change, token_weights, tokens, budget=budget)
    return {"positive": found[:n], "negative": found[n:]}


def exemplar_texts(
    windows: Windows,
    activation: Float[Tensor, "n_positions n_neurons"],
    tokens: Sequence[str],
    *,
    polarity: str = "positive",
    n: int = 10,
    around: int = 12,
) -> list[list[str]]:
    """For each neuron, texts around where it fires most, «that token» marked; one a document."""
    shape = (len(windows), -1)
    found = []
    for a in (activation * sign_of(polarity)).T:
        texts = []
        for window in exemplars(a.view(shape), windows.document, n).tolist():
            at = int(a.view(shape)[window].argmax()) + 1
            words = [tokens[i] for i in windows.tokens[window].tolist()]
            words[at] = f"«{words[at]}»"
            texts.append("".join(words[max(1, at - around) : at + around + 1]))
        found.append(texts)
    return found


def _listed(
    windows: Windows,
    activation: Float[Tensor, "n_windows n_counted"],
    chosen: Int[Tensor, " n_exemplars"],
    tokens: Sequence[str],
    share: float,
    budget: int,
    *,
    back: bool,
) -> Description:
    """The tokens of the chosen windows where a is large, with their largest a as weight."""
    a, text = activation[chosen], windows.tokens[chosen]
    inside = (a >= share * a.max()) & (a > 0)
    best: dict[tuple[int, int], float] = {}
    places = [text[:, 1:-1], text[:, :-2]] if back else [text[:, 1:-1]]
    rows = zip(a[inside].tolist(), *(place[inside].tolist() for place in places), strict=True)
    for value, *ids in sorted(rows, reverse=True):
        for before, i in enumerate(ids):
            best.setdefault((i, before), value)
    keys = list(best)[:budget]
    largest = max(best.values(), default=1.0)
    return Description(
        ids=tuple(i for i, _ in keys),
        weights=tuple(best[key] / largest for key in keys),
        tokens=tuple(tokens[i] for i, _ in keys),
        back=tuple(before for _, before in keys) if back else (),
    )
