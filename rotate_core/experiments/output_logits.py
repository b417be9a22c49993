"""Drops of logits when something is taken out of what an MLP writes, at one position of a text.

Where a neuron is active it adds ``a v`` to what its MLP writes. Any vector can be taken out of v in
the same forward pass as others: each is one more copy of the last token, and the context is shared.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.text.sites import mlp_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.text.corpus import Windows


@torch.no_grad()
def logit_drops(
    model: PreTrainedModel,
    layer: int,
    tokens: Int[Tensor, "n_positions length"],
    activation: Float[Tensor, " n_positions"],
    vectors: Float[Tensor, "n_vectors d_model"],
) -> Float[Tensor, "n_positions n_vectors d_vocab"]:
    """Drop of every logit when ``a * vector`` is taken from what an MLP writes at a position.

    Contexts are run once, together, and each last token up to the edit, where it is repeated: from
    there on, each vector costs one token of the layers that are left.

    Args:
        model: a loaded transformers model.
        layer: whose MLP.
        tokens: contexts; the edit is at the last token, and so are the logits.
        activation: a, at the last tokens.
        vectors: what is taken out of v, one row per variant.

    Returns:
        ``sign(a) * (logit before - logit after)``, float32 on the CPU.
    """
    n = len(vectors)
    taken: Tensor

    def edit(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.repeat(n + 1, 1, 1)  # the residual of one text is added to each
        output[1:, -1] -= taken.to(output)
        return output

    drops = []
    tokens = tokens.to(model.device)
    contexts = model.base_model(tokens[:, :-1], use_cache=True).past_key_values
    handle = mlp_of(model, layer).register_forward_hook(edit)
    try:
        for row, (last, a) in enumerate(zip(tokens[:, -1:], activation.tolist(), strict=True)):
            cache = copy.deepcopy(contexts)
            cache.batch_select_indices(torch.tensor([row], device=model.device))
            for later in cache.layers[layer + 1 :]:
                later.batch_repeat_interleave(n + 1)
            taken = a * vectors  # the first of the batch stays as it is
            logits = model(last[None], past_key_values=cache).logits[:, -1].float().cpu()
            drops.append((logits[:1] - logits[1:]) * (1.0 if a >= 0 else -1.0))
    finally:
        handle.remove()
    return torch.stack(drops)


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
        order = best[:, neuron].argsort(descending=True)
        again = torch.ones(len(order), dtype=torch.bool)
        again[np.unique(windows.document[order], return_index=True)[1]] = False
        chosen = order[again.argsort(stable=True)][:n]  # the first of each document come first
        if len(chosen) < n:
            raise ValueError(f"{len(order)} windows of text, {n} contexts: read more text")
        starts = at[chosen, neuron]
        pairs = zip(chosen.tolist(), starts.tolist(), strict=True)
        contexts.append(torch.stack([windows.tokens[w, s : s + length] for w, s in pairs]))
        values.append(ends[chosen, starts, neuron])
    return torch.stack(contexts), torch.stack(values)
