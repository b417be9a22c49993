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

from rotate_core.experiments.kurtosis import drawn_neurons, kurtosis_of
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.text.sites import read_site
from rotate_core.verdicts.intervals import difference, interval

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.models import Model

ARTICLES, SHUFFLED = "articles", "shuffled articles"
NEURONS, MATCHED = "coherent neurons", "coherent matched vectors"
"""What a row of :func:`concept_table` and of :func:`coherence_table` is of; the second is null."""
IN_MODEL, IN_LAYER = "of the model", "of their layer"
"""Which neurons a percentile of :func:`concept_table` is among."""


def residual_means(
    model: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    layers: Sequence[int],
    *,
    batch: int = 8,
    progress: bool = True,
) -> Float[Tensor, "n_layers n_windows d_model"]:
    """Mean residual stream of each window behind some layers, its first position left out."""
    means: list[Tensor] = []
    for part in tqdm(tokens.split(batch), unit="batch", disable=not progress, leave=False):
        residual = read_site(model, part, layers, site="residual")
        means.append(torch.stack([residual[layer][:, 1:].mean(1) for layer in layers]))
    return torch.cat(means, 1)


def difference_of_means(
    means: Float[Tensor, "n_windows d_model"], label: Int[Tensor, " n_windows"], *, least: int = 4
) -> Float[Tensor, "n_labels d_model"]:
    """For each label with ``least`` windows or more: their mean less that of all other windows.

    Permute ``label`` for the null: as many windows, of nothing in particular.
    """
    labels, counts = label.unique(return_counts=True)
    inside = [label == value for value in labels[counts >= least]]
    if not inside:
        raise ValueError(f"no label has {least} windows: read more text")
    means = means.double()
    return torch.stack([means[x].mean(0) - means[~x].mean(0) for x in inside]).float()


def concept_table(
    means: Float[Tensor, "n_layers n_windows d_model"],
    layers: Sequence[int],
    document: Int[Tensor, " n_windows"],
    neurons: pd.DataFrame,
    projection: Float[Tensor, "d_model d_vocab"],
    *,
    counts: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile of concept vectors' kurtosis among neurons, all kinds together; ties count half.

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
        One row per layer, what (:data:`ARTICLES` or :data:`SHUFFLED`), windows (of each document),
        cluster (the document) and among (:data:`IN_MODEL` or :data:`IN_LAYER`), with its percentile
        from 0 to 100, in the model in whole percent.
    """
    import pandas as pd
    from scipy.stats import percentileofscore

    generator = torch.Generator().manual_seed(seed)
    documents = pd.Series(document.numpy())
    turn = documents.groupby(documents).cumcount().to_numpy()
    parts = []
    for count in counts:
        kept = torch.tensor(turn < count)
        label = document[kept]
        shuffled = label[torch.randperm(len(label), generator=generator)]
        for mean, layer in zip(means, layers, strict=True):
            in_layer = neurons[neurons.layer == layer]["kurtosis"]
            for what, of in ((ARTICLES, label), (SHUFFLED, shuffled)):
                concepts = difference_of_means(mean[kept], of, least=min(counts))
                kurtosis = kurtosis_of(concepts, projection)
                # In whole percent: among so many neurons, rounding in the model's forward pass
                # moves a concept past one or the other; a rerun has to give this table again.
                percentiles = {
                    IN_MODEL: percentileofscore(neurons["kurtosis"], kurtosis, "mean").round(),
                    IN_LAYER: percentileofscore(in_layer, kurtosis, "mean"),
                }
                part = pd.DataFrame(percentiles).rename_axis("cluster").reset_index()
                parts.append(part.assign(layer=layer, what=what, windows=count))
    columns = ["layer", "what", "windows", "cluster"]
    return pd.concat(parts).melt(columns, var_name="among", value_name="percentile")


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
    return ids[kept], torch.where(together > 0, npmi, -1.0)


def coherence_ranks(
    vectors: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    ids: Int[Tensor, " n_kept"],
    npmi: Float[Tensor, "n_kept n_kept"],
    *,
    ks: Sequence[int],
) -> pd.DataFrame:
    """Coherence of vectors, and percentile of their kurtosis among themselves; ties count half.

    Args:
        vectors: neurons of a layer and kind, or matched vectors.
        projection: U.
        ids: from :func:`token_npmi`.
        npmi: from :func:`token_npmi`.
        ks: numbers of top tokens, among these.

    Returns:
        One row per vector and k: row, k, coherence (mean NPMI of the pairs of its top k tokens),
        rank (share of the vectors at least as coherent), percentile.

    Raises:
        ValueError: there are fewer tokens than k.

    Source: Roeder, Both and Hinneburg (2015), who judge topics so.
    """
    import pandas as pd
    from scipy.stats import percentileofscore

    if len(ids) < max(ks):
        raise ValueError(
            f"{len(ids)} tokens are in enough windows, wanted {max(ks)}: read more text"
        )
    kurtosis = kurtosis_of(vectors, projection)
    percentile = percentileofscore(kurtosis, kurtosis, "mean")
    logits = vectors @ projection[:, ids]
    parts = []
    for k in ks:
        first, second = (
            logits.topk(k, dim=1).indices[:, torch.combinations(torch.arange(k))].unbind(2)
        )
        part = pd.DataFrame({"coherence": npmi[first, second].mean(1), "percentile": percentile})
        rank = part.coherence.rank(ascending=False, pct=True)
        parts.append(part.assign(k=k, rank=rank).rename_axis("row").reset_index())
    return pd.concat(parts, ignore_index=True)


def coherence_table(
    model: Model,
    layers: Sequence[int],
    projection: Float[Tensor, "d_model d_vocab"],
    tokens: Int[Tensor, "n_windows length"],
    *,
    n_neurons: int,
    n_null: int,
    ks: Sequence[int],
    shares: Sequence[float],
    seed: int = 0,
) -> pd.DataFrame:
    """:func:`coherence_ranks` of the most coherent neurons, and of matched vectors chosen alike.

    Args:
        model: whose neurons.
        layers: to draw from.
        projection: U.
        tokens: windows of text that coherence is judged by.
        n_neurons: drawn from each layer, the same for all kinds.
        n_null: matched vectors of each layer and kind.
        ks: numbers of top tokens.
        shares: of the vectors of a layer and kind that count as most coherent.
        seed: of both draws; each layer and kind has matched vectors of its own.

    Returns:
        One row per layer, kind, what (:data:`NEURONS` or :data:`MATCHED`), share, k and vector,
        which is the cluster.
    """
    import pandas as pd

    ids, npmi = token_npmi(tokens)
    parts = []
    for layer in layers:
        rows = drawn_neurons(model.d_mlp, n_neurons, layer, seed=seed)
        for kind in model.kinds:
            every = model.neurons(layer, kind).vectors
            null = matched_vectors(every, n_null, seed=own_seed(seed, layer, kind))
            for what, vectors in ((NEURONS, every[rows]), (MATCHED, null)):
                ranks = coherence_ranks(vectors, projection, ids, npmi, ks=ks)
                cluster = f"{layer}/" + ranks.row.astype(str)
                ranks = ranks.assign(layer=layer, kind=kind, what=what, cluster=cluster)
                parts += [ranks[ranks["rank"] <= share].assign(share=share) for share in shares]
    return pd.concat(parts, ignore_index=True)


def beside_null(table: pd.DataFrame, by: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Median percentile of concepts or coherent neurons, of their null, and the difference.

    Args:
        table: from :func:`concept_table` or :func:`coherence_table`.
        by: columns that say which group.
        seed: of the bootstrap over clusters.

    Returns:
        One row per group, which is the index: ours, null and over_null, each an `Estimate`.
    """
    import pandas as pd

    options: Any = {"statistic": "median", "seed": seed}
    rows = {}
    for key, part in table.groupby(by):
        is_null = part.what.isin((SHUFFLED, MATCHED))
        (x, of_x), (y, of_y) = ((p.percentile, p.cluster) for p in (part[~is_null], part[is_null]))
        rows[key] = {
            "ours": interval(x, of_x, **options),
            "null": interval(y, of_y, **options),
            "over_null": difference(x, y, of_x, of_y, **options),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(by)
