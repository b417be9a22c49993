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

from rotate_core.experiments.kurtosis import kurtosis_of
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.text.activations import mlp_of

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.models import Model

ARTICLES, SHUFFLED = "articles", "shuffled articles"
"""What a row of :func:`concept_ranks` is of."""
NEURONS, MATCHED = "coherent neurons", "coherent matched vectors"
"""What a row of :func:`coherence_table` is of, once the most coherent are chosen."""


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


def concept_ranks(
    means: Float[Tensor, "n_layers n_windows d_model"],
    layers: Sequence[int],
    document: Int[Tensor, " n_windows"],
    neurons: pd.DataFrame,
    projection: Float[Tensor, "d_model d_vocab"],
    *,
    counts: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile of concept vectors' kurtosis among neurons, all kinds together.

    Among neurons of the whole model, as the paper takes it by the note that we know its figure
    from, and among those of the vector's own layer (ours): a layer that is sharp as a whole lifts
    the former, and not the latter.

    Args:
        means: from :func:`residual_means`.
        layers: that they are of.
        document: which document each window is of.
        neurons: of all layers, with columns layer and kurtosis.
        projection: U.
        counts: so many windows of each document at most, one after the other.
        seed: of the shuffle, which is the null: windows dealt to documents at random.

    Returns:
        One row per layer, what (:data:`ARTICLES` or :data:`SHUFFLED`), count and document: layer,
        what, windows, article, percentile (among neurons of all layers, in whole percent) and
        layer_percentile, both 0 to 100.
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(seed)
    everywhere = torch.tensor(neurons["kurtosis"].values)
    place = pd.Series(document.tolist()).groupby(document.tolist()).cumcount()
    parts = []
    for count in counts:
        kept = torch.tensor((place < count).tolist())
        label = document[kept]
        order = torch.randperm(len(label), generator=generator)
        for mean, layer in zip(means, layers, strict=True):
            reference = torch.tensor(neurons[neurons.layer == layer]["kurtosis"].values)
            for what, labels in ((ARTICLES, label), (SHUFFLED, label[order])):
                vectors = difference_of_means(mean[kept], labels, least=min(counts))
                kurtosis = kurtosis_of(vectors, projection)
                part = {
                    "article": range(len(kurtosis)),
                    # In whole percent: among so many neurons, rounding in the model's forward pass
                    # moves a concept past one or the other; a rerun has to give this table again.
                    "percentile": percentile_among(kurtosis, everywhere).round().numpy(),
                    "layer_percentile": percentile_among(kurtosis, reference).numpy(),
                }
                parts.append(pd.DataFrame(part).assign(layer=layer, what=what, windows=count))
    return pd.concat(parts, ignore_index=True)


def token_npmi(
    tokens: Int[Tensor, "n_windows length"], *, least: int = 20
) -> tuple[Int[Tensor, " n_kept"], Float[Tensor, "n_kept n_kept"]]:
    """Normalised pointwise mutual information of tokens over windows of text.

    Only tokens in ``least`` windows or more, and in at most a tenth of all, are kept: the rest have
    no estimate, or occur with everything. A pair that never meets counts -1.

    Returns:
        The tokens that are kept, and the figure of each pair of them.

    Source: Bouma (2009).
    """
    ids, inverse = tokens.unique(return_inverse=True)
    seen = torch.zeros(len(tokens), len(ids), dtype=torch.bool).scatter_(1, inverse, True)
    n_windows = seen.sum(0)
    kept = (n_windows >= least) & (n_windows <= max(least, len(tokens) // 10))
    present = seen[:, kept].float()
    together = (present.T @ present) / len(tokens)
    p = together.diagonal()
    log_joint = together.clamp_min(1e-12).log()
    npmi = (log_joint - p.log()[:, None] - p.log()[None, :]) / -log_joint
    return ids[kept], torch.where(together > 0, npmi, torch.full_like(npmi, -1.0))


def npmi_of_top_tokens(
    logits: Float[Tensor, "n_neurons n_kept"],
    npmi: Float[Tensor, "n_kept n_kept"],
    *,
    k: int = 10,
) -> Float[Tensor, " n_neurons"]:
    """Mean figure of the pairs of each neuron's top k tokens, among those of :func:`token_npmi`.

    Args:
        logits: of these tokens.
        npmi: of each pair of them.
        k: how many.

    Raises:
        ValueError: there are not as many tokens.

    Source: Roeder, Both and Hinneburg (2015), who judge topics so.
    """
    if len(npmi) < k:
        raise ValueError(f"{len(npmi)} tokens are in enough windows, wanted {k}: read more text")
    top = logits.topk(k, dim=1).indices
    pairs = torch.combinations(torch.arange(k))
    return npmi[top[:, pairs[:, 0]], top[:, pairs[:, 1]]].mean(1)


def coherence_ranks(
    vectors: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    ids: Int[Tensor, " n_kept"],
    npmi: Float[Tensor, "n_kept n_kept"],
    *,
    ks: Sequence[int],
) -> pd.DataFrame:
    """How coherent vectors are by text, beside the percentile of their kurtosis among themselves.

    Args:
        vectors: neurons of a layer and kind, or matched vectors.
        projection: U.
        ids: from :func:`token_npmi`.
        npmi: from :func:`token_npmi`.
        ks: numbers of top tokens.

    Returns:
        One row per vector and k: row, k, rank (share of the vectors at least as coherent),
        percentile.
    """
    import pandas as pd

    kurtosis = kurtosis_of(vectors, projection)
    percentile = percentile_among(kurtosis, kurtosis).numpy()
    logits = vectors @ projection[:, ids]
    parts = []
    for k in ks:
        coherence = pd.Series(npmi_of_top_tokens(logits, npmi, k=k).numpy())
        rank = coherence.rank(ascending=False, pct=True)
        part = {"row": range(len(vectors)), "rank": rank, "percentile": percentile}
        parts.append(pd.DataFrame(part).assign(k=k))
    return pd.concat(parts, ignore_index=True)


def coherence_table(
    model: Model,
    layers: Sequence[int],
    projection: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "n_windows length"],
    *,
    n_neurons: int = 300,
    n_null: int = 128,
    ks: Sequence[int] = (10,),
    seed: int = 0,
) -> pd.DataFrame:
    """:func:`coherence_ranks` of neurons drawn from some layers, and of matched vectors.

    Args:
        model: whose neurons.
        layers: to draw from.
        projection: U.
        tokens: windows of text that coherence is judged by.
        n_neurons: drawn from each layer, the same for all kinds.
        n_null: matched vectors of each layer and kind.
        ks: numbers of top tokens.
        seed: of both draws; each layer and kind has matched vectors of its own.

    Returns:
        One row per vector and k, with layer, kind, what (:data:`NEURONS` or :data:`MATCHED`) and
        cluster (the neuron).
    """
    import pandas as pd

    ids, npmi = token_npmi(tokens)
    parts = []
    for layer in layers:
        generator = torch.Generator().manual_seed(seed * 10_007 + layer)
        rows = torch.randperm(model.d_mlp, generator=generator)[:n_neurons]
        for kind in model.kinds:
            everything = model.neurons(layer, kind).vectors
            null = matched_vectors(everything, n_null, seed=own_seed(seed, layer, kind))
            for what, vectors in ((NEURONS, everything[rows]), (MATCHED, null)):
                part = coherence_ranks(vectors, projection, ids, npmi, ks=ks)
                parts.append(part.assign(layer=layer, kind=kind, what=what))
    table = pd.concat(parts, ignore_index=True)
    table["cluster"] = table.layer.astype(str) + "/" + table.row.astype(str)
    return table


def _blocks(model: PreTrainedModel, layers: Sequence[int]) -> dict[int, torch.nn.Module]:
    """The transformer block that each layer's MLP is in."""
    names = {id(module): name for name, module in model.named_modules()}
    modules = dict(model.named_modules())
    return {layer: modules[names[id(mlp_of(model, layer))].rpartition(".")[0]] for layer in layers}
