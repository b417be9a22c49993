"""Which neurons' channels changed between two checkpoints, beside what chance would change (ours).

    before, after = Atlas.open("base/"), Atlas.open("instruct/")
    found = diff(before, after)
    found.neurons.sort_values("p_value")

A neuron's channels in both are matched one to one. Their change is ``1 - |r|``, r the correlation
of two channels' logits over the tokens that both checkpoints have. Channels move wherever a weight
vector moves, and more where the solver has two hills of one height. So a neuron's change stands
beside that of *random rotations*: its old weight vector, turned by the same angle in random
directions, and decomposed in the new vocabulary. A small p-value says that the change was not
just as large as a change of this size makes it: it went where channels are.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.atlas.atlas import Atlas
from rotate_core.channels import Channels, VocabularyLike, take
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.models import Neurons
from rotate_core.null.calibration import p_values, q_values
from rotate_core.null.matched import matched_rotations

if TYPE_CHECKING:
    import pandas as pd

N_TOKENS = 10
"""Tokens of a channel that are looked up in the other one: those furthest out."""
SAME_SETTINGS = ("settings", "exceptions", "n_channels", "seed", "side", "fold_norm")
"""Of two atlases: what has to be the same, or channels differ by it."""


@dataclass(frozen=True, eq=False)
class Difference:
    """What changed, as tables; p and q are of a neuron, channels have none of their own."""

    neurons: pd.DataFrame
    """One row per neuron: layer, kind, neuron, weight_change (1 less the cosine of w),
    channel_change (mean over its channels), null_change (the same of its random rotations, mean),
    p_value, q_value (over the neurons of a layer and kind), lost and gained (lists of tokens)."""
    channels: pd.DataFrame
    """One row per channel: layer, kind, neuron, channel, after (its match's number), change, lost
    and gained."""
    n_null: int
    """Random rotations of each neuron."""


def diff(
    before: Atlas,
    after: Atlas,
    *,
    n_null: int = 19,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Difference:
    """Compare the channels of the neurons that two atlases have in common.

    Args:
        before: of one checkpoint.
        after: of another, made with the same settings.
        n_null: random rotations of each neuron that has changed. p-values are ranks among them,
            1 / (n_null + 1) at least.
        seed: of the rotations.
        device: where they are decomposed; None for the CPU.
        progress: show a bar.

    Returns:
        Neurons in the order of the atlases. One whose weights are the same has a p-value of 1.

    Raises:
        ValueError: other settings, sizes or tokens, which are named; no neuron in common; no
            rotations.
    """
    import pandas as pd

    if n_null < 1:
        raise ValueError(f"n_null={n_null}: wanted at least 1")
    _check_settings(before, after)
    shared = shared_tokens(before.tokens, after.tokens)
    groups = [group for group in before.manifest.groups() if group in after.manifest.groups()]
    tables = []
    for layer, kind in tqdm(groups, unit="group", disable=not progress, leave=False):
        old, new = (atlas.channels(layer=layer, kind=kind) for atlas in (before, after))
        common = sorted(set(old.indices) & set(new.indices))
        if not common:
            continue
        old, new = (take(x, [x.indices.index(n) for n in common]) for x in (old, new))
        tables.append(_compare(old, new, shared, n_null, seed, device or "cpu"))
    if not tables:
        raise ValueError(
            f"{before.folder} and {after.folder} have no neuron of one layer and kind in common"
        )
    neurons, channels = (pd.concat(part, ignore_index=True) for part in zip(*tables, strict=True))
    return Difference(neurons, channels, n_null)


def shared_tokens(before: tuple[str, ...], after: tuple[str, ...]) -> Int[Tensor, " n_shared"]:
    """Numbers of the tokens that are the same in two vocabularies.

    Raises:
        ValueError: fewer than half of them: another tokenizer.
    """
    pairs = enumerate(zip(before, after, strict=False))
    same = [i for i, (old, new) in pairs if old == new]
    if 2 * len(same) < max(len(before), len(after)):
        raise ValueError(
            f"{len(same):,} tokens are the same, of {len(before):,} before and {len(after):,} "
            "after: these checkpoints have different tokenizers"
        )
    return torch.tensor(same)


def correlations(
    before: Channels, after: Channels, overlaps: tuple[Tensor, Tensor, Tensor]
) -> Float[Tensor, "n_neurons n_channels n_channels"]:
    """|r| of the logits of each channel before with each one after; float64.

    Args:
        before: channels of some neurons.
        after: of the same ones, row by row.
        overlaps: ``A A^T``, ``A B^T`` and ``B B^T`` of the two vocabularies, centred.
    """
    a, b = before.vectors.double(), after.vectors.double()
    aa, ab, bb = overlaps
    products = torch.einsum("ncd,de,nke->nck", a, ab, b).abs()
    sizes = (torch.einsum("ncd,de,nce->nc", x, g, x).sqrt() for x, g in ((a, aa), (b, bb)))
    first, second = sizes
    return (products / (first.unsqueeze(2) * second.unsqueeze(1)).clamp_min(1e-300)).clamp_max(1)


def matched(r: Float[Tensor, "n_neurons n n"]) -> Int[Tensor, "n_neurons n"]:
    """For each channel before, its match after: one to one, with the largest sum of |r|."""
    from scipy.optimize import linear_sum_assignment

    return torch.stack(
        [torch.from_numpy(linear_sum_assignment(x, maximize=True)[1]) for x in r.numpy()]
    )


def _overlaps(
    before: VocabularyLike, after: VocabularyLike, shared: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Products of two vocabularies over their common tokens, centred over these."""
    a, b = (x.projection[:, shared] for x in (before, after))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a @ a.T).double(), (a @ b.T).double(), (b @ b.T).double()


def _compare(
    old: Channels, new: Channels, shared: Tensor, n_null: int, seed: int, device: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of one layer and kind."""
    import pandas as pd

    if old.vectors.shape != new.vectors.shape:
        raise ValueError(
            f"layer {old.layer}, {old.kind}: {old.vectors.shape[1]} channels of "
            f"{old.vectors.shape[2]} values before, {new.vectors.shape[1]} of "
            f"{new.vectors.shape[2]} after; wanted the same"
        )
    overlaps = _overlaps(old.vocabulary, new.vocabulary, shared)
    r = correlations(old, new, overlaps)
    match = matched(r)
    change = 1 - r.gather(2, match.unsqueeze(2)).squeeze(2)
    observed = change.mean(1)
    moved = (old.weight_vectors != new.weight_vectors).any(1)
    null = observed.repeat(n_null, 1)  # where nothing moved, its rotations are itself
    if moved.any():
        rows = moved.nonzero().flatten().tolist()
        null[:, moved] = _null(take(old, rows), take(new, rows), overlaps, n_null, seed, device)
    pairs = zip(observed, null.T, strict=True)
    ranks = [p_values(x.view(1, 1), y.view(-1, 1), extrapolate=False) for x, y in pairs]
    p = torch.cat(ranks)  # a channel stays or jumps to another hill: no tail to extrapolate
    w = torch.cosine_similarity(old.weight_vectors.double(), new.weight_vectors.double(), dim=1)

    channels = []
    for i, neuron in enumerate(old.indices):
        for c, k in enumerate(match[i].tolist()):
            tokens = [[t for t, _ in x.top_tokens(i, at)] for x, at in ((old, c), (new, k))]
            channels.append(
                {
                    "layer": old.layer, "kind": old.kind, "neuron": neuron, "channel": c,
                    "after": k, "change": float(change[i, c]),
                    "lost": [t for t in tokens[0] if t not in tokens[1]],
                    "gained": [t for t in tokens[1] if t not in tokens[0]],
                }
            )  # fmt: skip
    table = pd.DataFrame(channels)
    words = table.groupby("neuron", sort=False)[["lost", "gained"]].agg("sum")
    neurons = pd.DataFrame(
        {
            "layer": old.layer,
            "kind": old.kind,
            "neuron": old.indices,
            "weight_change": (1 - w.abs()).clamp_min(0).where(moved, 0),
            "channel_change": observed,
            "null_change": null.mean(0),
            "p_value": p[:, 0],
            "q_value": q_values(p)[:, 0],
        }
    )
    return neurons.merge(words, left_on="neuron", right_index=True), table


def _null(
    old: Channels,
    new: Channels,
    overlaps: tuple[Tensor, Tensor, Tensor],
    n_null: int,
    seed: int,
    device: Any,
) -> Float[Tensor, "n_null n_neurons"]:
    """The change of channels where old weights are turned as far, but in random directions."""
    turned = dataclasses.replace(old, vectors=new.weight_vectors.unsqueeze(1))
    w = matched_rotations(turned, n_null, seed=seed).flatten(0, 2)
    assert old.layer is not None
    assert old.kind is not None
    labels = range(len(w))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as an atlas is made
        rotated = decompose(
            Neurons(w, "", old.layer, old.kind, tuple(labels)),
            new.vocabulary,
            n_channels=new.n_channels,
            settings=new.settings,
            seed=new.seed,
            device=device,
            progress=False,
        )
    changes = []
    for i in range(n_null):
        part = take(rotated, labels[i * old.n_neurons : (i + 1) * old.n_neurons])
        r = correlations(old, part, overlaps)
        changes.append(1 - r.gather(2, matched(r).unsqueeze(2)).squeeze(2).mean(1))
    return torch.stack(changes)


def _check_settings(before: Atlas, after: Atlas) -> None:
    for name in SAME_SETTINGS:
        values = [getattr(atlas.manifest, name) for atlas in (before, after)]
        if values[0] != values[1]:
            raise ValueError(
                f"{name} is {values[0]} in {before.folder}, {values[1]} in {after.folder}: wanted "
                "atlases made the same way"
            )
