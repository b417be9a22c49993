"""Does a channel of out promote its own tokens? Ablation on the output side (chapter 9).

Where a neuron is active it adds ``a v`` to what its MLP writes. Taking ``alpha_k c_k`` out of v
changes that by ``-a alpha_k c_k``, at this position only; the rest of the model runs on.
The drop of a token's logit, ``Delta``, is signed by a and by the side of the channel's tail that
the token is on. These are our definitions; the paper's are not public.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.ablation import contributions
from rotate_core.experiments.activations import mlp_of
from rotate_core.support import matched_rotations

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.experiments.corpus import Windows

N_EFFECT = 50
"""Tokens that a neuron's own effect is measured on: those it moves most."""


def logit_drops(
    model: PreTrainedModel,
    layer: int,
    tokens: Int[Tensor, "n_positions length"],
    activation: Float[Tensor, " n_positions"],
    vectors: Float[Tensor, "n_vectors d_model"],
) -> Float[Tensor, "n_vectors d_vocab"]:
    """Mean drop of every logit when ``a * vector`` is taken from what an MLP writes at a position.

    The context is run once; each vector costs one token of the whole model.

    Args:
        model: a loaded transformers model.
        layer: whose MLP.
        tokens: contexts; the edit is at the last token, and so are the logits.
        activation: a, at the last tokens.
        vectors: what is taken out of v, a row a variant.

    Returns:
        ``sign(a) * (logit before - logit after)``, mean over positions, float32 on the CPU.
    """
    n = len(vectors)
    total = torch.zeros(n, model.config.get_text_config().vocab_size)
    taken: Tensor | None = None

    def edit(_: Any, __: Any, output: Tensor) -> Tensor:
        if taken is None:
            return output
        output = output.clone()
        output[1:, -1] -= taken.to(output)
        return output

    handle = mlp_of(model, layer).register_forward_hook(edit)
    try:
        with torch.no_grad():
            for row, a in zip(tokens.to(model.device), activation.tolist(), strict=True):
                cache = model.base_model(row[None, :-1], use_cache=True).past_key_values
                cache = copy.deepcopy(cache)
                cache.batch_repeat_interleave(n + 1)
                taken = a * vectors  # the first of the batch stays as it is
                last = row[None, -1:].expand(n + 1, 1)
                logits = model(last, past_key_values=cache).logits[:, -1].float().cpu()
                total += (logits[:1] - logits[1:]) * (1.0 if a >= 0 else -1.0)
                taken = None
    finally:
        handle.remove()
    return total / len(tokens)


def output_ablation(
    model: PreTrainedModel,
    channels: Channels,
    layer: int,
    contexts: Int[Tensor, "n_neurons n_positions length"],
    activation: Float[Tensor, "n_neurons n_positions"],
    frequency: Float[Tensor, " d_vocab"],
    *,
    n_rotations: int = 5,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, Float[Tensor, "n_neurons n_channels d_vocab"]]:
    """Faithfulness and AUROC of each channel, completeness of each neuron, beside rotations.

    Args:
        model: a loaded transformers model.
        channels: of out vectors, of one layer; they may be virtual neurons'.
        layer: their layer.
        contexts: for each neuron, texts that end where it is active.
        activation: its activation there.
        frequency: how often each token is in text, to match tokens by.
        n_rotations: sets of matched rotations of each neuron's channels.
        seed: of the rotations.

    Returns:
        A row a channel: faithfulness, auroc, and their means over rotations. A row a neuron:
        completeness and its mean over rotations. And the drops of all logits by channel.
    """
    import pandas as pd

    d_vocab = len(channels.vocabulary.tokens)
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    channel_rows, neuron_rows, drops = [], [], []
    for i, neuron in enumerate(channels.indices):
        w = channels.weight_vectors[i]
        sets = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])
        parts = contributions(w.expand(len(sets), -1), sets)
        variants = torch.cat([w[None], w - parts.sum(1), parts.flatten(0, 1)])
        delta = logit_drops(model, layer, contexts[i], activation[i], variants)[:, :d_vocab]
        whole, rest = delta[0], delta[1 : 1 + len(sets)]
        by_channel = delta[1 + len(sets) :].unflatten(0, parts.shape[:2])
        drops.append(by_channel[0])

        top = whole.abs().topk(min(N_EFFECT, d_vocab)).indices
        kept = ((whole - rest)[:, top] * whole[top].sign()).sum(1) / whole[top].abs().sum()
        row = {"completeness": kept[0].item(), "rotation": kept[1:].mean().item()}
        neuron_rows.append({"neuron": neuron} | row)

        signs = _token_signs(channels, i)
        own = [_tail_ids(channels, i, k) for k in range(channels.n_channels)]
        for k in range(channels.n_channels):
            if not len(own[k]):
                continue
            others = [
                (j, _matched(own[k], own[j], frequency))
                for j in range(channels.n_channels)
                if j != k and len(own[j])
            ]
            signed = by_channel[:, k] * signs[k]
            score = signed[:, own[k]].mean(1)
            if others:
                away = [(by_channel[:, k, ids] * signs[j, ids]).mean(1) for j, ids in others]
                score = score - torch.stack(away).mean(0)
            auroc = _auroc(signed, own[k])
            channel_rows.append(
                {
                    "neuron": neuron,
                    "channel": k,
                    "n_tokens": len(own[k]),
                    "faithfulness": score[0].item(),
                    "faithfulness_rotation": score[1:].mean().item(),
                    "auroc": auroc[0].item(),
                    "auroc_rotation": auroc[1:].mean().item(),
                }
            )
    return pd.DataFrame(channel_rows), pd.DataFrame(neuron_rows), torch.stack(drops)


def _tail_ids(channels: Channels, i: int, k: int) -> Tensor:
    """The channel's tail, at most the tokens kept with it (50)."""
    inside = channels.top_z[i, k].abs() > channels.settings.threshold
    return channels.top_ids[i, k][inside].long()


def _token_signs(channels: Channels, i: int) -> Float[Tensor, "n_channels d_vocab"]:
    """On which side of a channel each token counts: its tail's, or its own where both are tails."""
    projection = channels.vocabulary.projection
    z = channels.vectors[i].to(projection) @ projection
    z = (z - z.mean(1, keepdim=True)).cpu()
    tail = channels.tail[i].unsqueeze(1).to(z)
    return torch.where(tail == 0, z.sign(), tail)


def _matched(wanted: Tensor, pool: Tensor, frequency: Tensor) -> Tensor:
    """For each wanted token, the token of the pool that is most nearly as frequent in text."""
    distance = frequency[wanted].log1p()[:, None] - frequency[pool].log1p()[None, :]
    return pool[distance.abs().argmin(1)]


def _auroc(scores: Float[Tensor, "n d_vocab"], positive: Tensor) -> Float[Tensor, " n"]:
    """Chance that a positive token scores above another one; ties are not expected."""
    d_vocab = scores.shape[1]
    ranks = scores.argsort(1).argsort(1).double()[:, positive] + 1
    n = len(positive)
    return (ranks.sum(1) - n * (n + 1) / 2) / (n * (d_vocab - n))


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
