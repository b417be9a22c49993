"""Concept vectors and coherent neurons, neither chosen by kurtosis (chapter 5).

Both are ours: the paper's concept vectors are not public. A *concept* is what one document is
about: the mean residual stream in its windows less that in all other windows. A *coherent* neuron
is one whose top tokens occur together in text more often than chance (NPMI).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.experiments.activations import mlp_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def residual_means(
    model: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    layers: Sequence[int],
    *,
    batch: int = 8,
    progress: bool = True,
) -> Float[Tensor, "n_layers n_windows d_model"]:
    """Mean residual stream of each window behind some layers, its first position left out."""
    sums: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    blocks = _blocks(model, layers)
    handles = []
    try:
        for layer in layers:

            def hook(_: Any, __: Any, output: Any, layer: int = layer) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                sums[layer].append(hidden[:, 1:].float().mean(1).cpu())

            handles.append(blocks[layer].register_forward_hook(hook))
        starts = range(0, len(tokens), batch)
        with torch.no_grad():
            for start in tqdm(starts, unit="batch", disable=not progress, leave=False):
                model.base_model(tokens[start : start + batch].to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([torch.cat(sums[layer]) for layer in layers])


def difference_of_means(
    means: Float[Tensor, "n_windows d_model"], label: Int[Tensor, " n_windows"], *, least: int = 4
) -> Float[Tensor, "n_labels d_model"]:
    """For each label with ``least`` windows or more: their mean less that of all other windows.

    Permute ``label`` for the null: as many windows, of nothing in particular.
    """
    labels, counts = label.unique(return_counts=True)
    total = means.double().sum(0)
    found = []
    for value, n in zip(labels[counts >= least].tolist(), counts[counts >= least], strict=True):
        inside = means[label == value].double().sum(0)
        found.append(inside / n - (total - inside) / (len(means) - n))
    if not found:
        raise ValueError(f"no label has {least} windows: read more text")
    return torch.stack(found).float()


def percentile_among(
    values: Float[Tensor, " n"], reference: Float[Tensor, " n_reference"]
) -> Float[Tensor, " n"]:
    """Share of the reference below each value, in percent; ties count half."""
    ordered = reference.sort().values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return 50 * (below + upto).double() / len(ordered)


def npmi_of_top_tokens(
    logits: Float[Tensor, "n_neurons d_vocab"],
    tokens: Int[Tensor, "n_windows length"],
    *,
    k: int = 10,
    least: int = 20,
) -> Float[Tensor, " n_neurons"]:
    """Mean normalised pointwise mutual information of the pairs of each neuron's top k tokens.

    Over windows of text. Only tokens in ``least`` windows or more, and in at most a tenth of all,
    compete: the rest have no estimate, or occur with everything. A pair that never meets counts -1.

    Source: Bouma (2009) for NPMI; Roeder, Both and Hinneburg (2015) for its use on topics.
    """
    ids, inverse = tokens.unique(return_inverse=True)
    seen = torch.zeros(len(tokens), len(ids), dtype=torch.bool).scatter_(1, inverse, True)
    n_windows = seen.sum(0)
    kept = (n_windows >= least) & (n_windows <= max(least, len(tokens) // 10))
    ids = ids[kept]
    if len(ids) < k:
        raise ValueError(f"{len(ids)} tokens are in {least} windows or more: read more text")
    present = seen[:, kept].float()
    together = (present.T @ present) / len(tokens)
    p = together.diagonal()
    log_joint = together.clamp_min(1e-12).log()
    npmi = (log_joint - p.log()[:, None] - p.log()[None, :]) / -log_joint
    npmi = torch.where(together > 0, npmi, torch.full_like(npmi, -1.0))
    top = logits[:, ids].topk(k, dim=1).indices
    pairs = torch.combinations(torch.arange(k))
    return npmi[top[:, pairs[:, 0]], top[:, pairs[:, 1]]].mean(1)


def _blocks(model: PreTrainedModel, layers: Sequence[int]) -> dict[int, torch.nn.Module]:
    """The transformer block that each layer's MLP is in."""
    names = {id(module): name for name, module in model.named_modules()}
    modules = dict(model.named_modules())
    return {layer: modules[names[id(mlp_of(model, layer))].rpartition(".")[0]] for layer in layers}
