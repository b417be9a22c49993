"""How far logits drop when something is taken out of what an MLP writes, at one position of a text.

Where a neuron is active it adds ``a v`` to what its MLP writes. Any vector can be taken out of v in
the same forward pass as others: each is one more copy of the last token, and the context is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.text.activations import mlp_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.text.corpus import Windows


def logit_drops(
    model: PreTrainedModel,
    layer: int,
    tokens: Int[Tensor, "n_positions length"],
    activation: Float[Tensor, " n_positions"],
    vectors: Float[Tensor, "n_vectors d_model"],
) -> Float[Tensor, "n_vectors d_vocab"]:
    """Mean drop of every logit when ``a * vector`` is taken from what an MLP writes at a position.

    Args:
        model: a loaded transformers model.
        layer: whose MLP.
        tokens: contexts; the edit is at the last token, and so are the logits.
        activation: a, at the last tokens.
        vectors: what is taken out of v, one row per variant.

    Returns:
        ``sign(a) * (logit before - logit after)``, mean over positions, float32 on the CPU.
    """
    total = torch.zeros(len(vectors), model.config.get_text_config().vocab_size)
    for drops in drops_at_each(model, layer, tokens, activation, vectors):
        total += drops
    return total / len(tokens)


def drops_at_each(
    model: PreTrainedModel,
    layer: int,
    tokens: Int[Tensor, "n_positions length"],
    activation: Float[Tensor, " n_positions"],
    vectors: Float[Tensor, "n_vectors d_model"],
) -> Iterator[Float[Tensor, "n_vectors d_vocab"]]:
    """What :func:`logit_drops` is the mean of, a position at a time.

    The context is run once, and so is the last token up to the edit, where it is repeated: from
    there on, each vector costs one token of the layers that are left.
    """
    n = len(vectors)
    taken: Tensor | None = None

    def edit(_: Any, __: Any, output: Tensor) -> Tensor:
        if taken is None:
            return output
        output = output.repeat(n + 1, 1, 1)  # the residual of one text is added to each
        output[1:, -1] -= taken.to(output)
        return output

    for row, a in zip(tokens.to(model.device), activation.tolist(), strict=True):
        handle = mlp_of(model, layer).register_forward_hook(edit)
        try:
            with torch.no_grad():
                cache = model.base_model(row[None, :-1], use_cache=True).past_key_values
                for later in cache.layers[layer + 1 :]:
                    later.batch_repeat_interleave(n + 1)
                taken = a * vectors  # the first of the batch stays as it is
                logits = model(row[None, -1:], past_key_values=cache).logits[:, -1].float().cpu()
        finally:
            handle.remove()
            taken = None
        yield (logits[:1] - logits[1:]) * (1.0 if a >= 0 else -1.0)


def active_contexts(
    windows: Windows,
    activation: Float[Tensor, "n_windows length n_neurons"],
    *,
    n: int,
    length: int,
) -> tuple[Int[Tensor, "n_neurons n length"], Float[Tensor, "n_neurons n"]]:
    """For each neuron, the contexts that end where its |a| is largest, one a document.

    Args:
        windows: of text.
        activation: at every position of them.
        n: contexts for each neuron; documents are used again only where there are fewer.
        length: tokens of a context, the active one last.

    Returns:
        The contexts and the activations at their ends.
    """
    ends = activation[:, length - 1 :]  # (n_windows, n_ends, n_neurons): whole contexts only
    best, at = ends.abs().max(1)  # the best end of each window
    contexts, values = [], []
    for neuron in range(activation.shape[2]):
        order = best[:, neuron].argsort(descending=True).tolist()
        seen: set[int] = set()
        first: list[int] = []
        again: list[int] = []
        for window in order:
            document = int(windows.document[window])
            (again if document in seen else first).append(window)
            seen.add(document)
        chosen = (first + again)[:n]
        if len(chosen) < n:
            raise ValueError(f"{len(order)} windows of text, {n} contexts: read more text")
        starts = [int(at[window, neuron]) for window in chosen]
        pairs = list(zip(chosen, starts, strict=True))
        contexts.append(torch.stack([windows.tokens[w, s : s + length] for w, s in pairs]))
        values.append(torch.stack([ends[w, s, neuron] for w, s in pairs]))
    return torch.stack(contexts), torch.stack(values)
