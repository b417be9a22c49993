"""Directions of a sparse autoencoder in the channels' place, scored as channels are.

The paper holds its channels against sparse autoencoders by the tests of chapters 8 and 9. How it
chose a neuron's latents is not public. Ours: as many as the neuron has channels, by orthogonal
matching pursuit of its weight vector. These tests take ``alpha_k c_k`` out of w, alpha by least
squares over all directions of the neuron, so each direction is the one that lowers most what least
squares leaves of w. Of out vectors w is rebuilt from what latents write (decoder rows at "mlp_out"
or "residual"), of gate and in from what they read by (encoder rows at "mlp_in").

A pursuit finds something in any dictionary. So beside the latents stand as many random directions
with the mean and the covariance of the dictionary, chosen from in the same way. What a direction is
taken to be about, its tail, is read off through the vocabulary by the rule for channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from rotate_core.channels import Channels
from rotate_core.dictionaries import SAE
from rotate_core.experiments.input_ablation import FIXED, RULES, ReadingNeurons, input_ablation
from rotate_core.experiments.output_ablation import output_ablation
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.deflate import deflate
from rotate_core.text.corpus import COUNTED
from rotate_core.text.sites import activation_function, neuron_activations
from rotate_core.verdicts.intervals import interval

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.models import Model
    from rotate_core.text import Activations

CHANNELS, LATENTS, RANDOM = "channels", "latents", "random directions"
"""What a row of a table is of, in its column ``what``."""
CONTEXT = 32
"""Tokens up to an active position, itself included, as in chapter 9."""
SITES = {"out": ("mlp_out", "residual"), "gate": ("mlp_in",), "in": ("mlp_in",)}
"""By kind of vector, where a dictionary has directions of the same space."""


def dictionary_ablation(
    channels: Channels,
    sae: SAE,
    model: Model,
    measure: Callable[[Channels], tuple[pd.DataFrame, ...]],
    *,
    seed: int = 0,
) -> tuple[pd.DataFrame, ...]:
    """Tables of some neurons' channels, of latents in their place, and of random directions there.

    Args:
        channels: of neurons of one layer and kind.
        sae: of this layer, at a site of :data:`SITES`.
        model: whose neurons they are.
        measure: the tables of one set of channels, such as :func:`.input_ablation` or
            :func:`.output_ablation` of given neurons and text; the same for all three.
        seed: of the random directions.

    Returns:
        Each table of ``measure`` for all three, one below the other, with columns layer, kind, what
        and cluster (the neuron).

    Raises:
        ValueError: an autoencoder of another layer, or of a site with other directions.
    """
    import pandas as pd

    measured = []
    for what, part in in_place(channels, directions(sae, model, channels), seed=seed).items():
        labels = {"layer": channels.layer, "kind": channels.kind, "what": what}
        measured.append(
            [
                table.assign(**labels, cluster=f"{channels.layer}/" + table["neuron"].astype(str))
                for table in measure(part)
            ]
        )
    return tuple(
        pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
        for tables in zip(*measured, strict=True)
    )


def against_random(
    table: pd.DataFrame, column: str, by: list[str], *, seed: int = 0
) -> pd.DataFrame:
    """Means of a figure, and what channels and latents have more than random directions.

    Args:
        table: of :func:`dictionary_ablation`; rows without a value are left out.
        column: the figure.
        by: columns that say which group, in the table's order.
        seed: of the bootstraps over neurons.

    Returns:
        One row per group and what: n (values), mean, and "less random directions", the mean over
        neurons of the difference of their own means; both with 95% intervals.
    """
    import pandas as pd

    rows = []
    there = table[table[column].notna()]
    for key, part in there.groupby(by, sort=False):
        means = part.pivot_table(index="cluster", columns="what", values=column)
        for what, own in part.groupby("what", sort=False):
            row = dict(zip(by, key, strict=True)) | {"what": what, "n": len(own)}
            row["mean"] = interval(own[column], own.cluster, seed=seed)
            if RANDOM in means and what != RANDOM:
                more = (means[what] - means[RANDOM]).dropna()
                row[f"less {RANDOM}"] = interval(more, more.index, seed=seed)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "what", "n", "mean", f"less {RANDOM}"])


def directions(sae: SAE, model: Model, channels: Channels) -> Float[Tensor, "k d_model"]:
    """The latents' unit directions in the space of the channels' weight vectors; no dead ones.

    Where a norm follows the MLP (as in Gemma), out vectors are in front of its gain and what an
    autoencoder sees is behind it: decoder rows are divided by it.

    Raises:
        ValueError: an autoencoder of another layer, or of a site with other directions.
    """
    kind, layer = str(channels.kind), channels.layer
    if sae.site not in SITES[kind] or sae.layer != layer:
        raise ValueError(
            f"an autoencoder of layer {sae.layer}, {sae.site}: wanted layer {layer}, "
            f"{' or '.join(SITES[kind])}, for {kind!r} vectors"
        )
    rows = sae.decoder if kind == "out" else sae.encoder
    names = model.checkpoint.architecture
    if kind == "out" and names.norm_behind_mlp is not None:
        gain = model.checkpoint.tensor(names.norm_behind_mlp.format(layer=layer))
        rows = rows / (names.norm_offset + gain)
    used = rows.norm(dim=1) > 0
    return normalize(rows[used if sae.active is None else used & (sae.active > 0)])


def in_place(
    channels: Channels, dictionary: Float[Tensor, "k d_model"], *, seed: int = 0
) -> dict[str, Channels]:
    """The channels; directions of a dictionary in their place; random directions in their place."""
    own = own_seed(seed, str(channels.layer), str(channels.kind), "dictionary")
    random = normalize(matched_vectors(dictionary, len(dictionary), seed=own))
    return {
        CHANNELS: channels,
        LATENTS: stand_in(channels, dictionary),
        RANDOM: stand_in(channels, random),
    }


def stand_in(channels: Channels, dictionary: Float[Tensor, "k d_model"]) -> Channels:
    """As many directions of a dictionary in place of each neuron's channels, in the order chosen.

    Like channels, they have their neuron's norm and point its way, and their tails are read off by
    the same code; of the fields of a search there is nothing to say.
    """
    w = channels.weight_vectors
    rows = pursuit(w, dictionary, channels.n_channels)
    vectors = normalize(dictionary.to(w), dim=1)[rows] * w.norm(dim=1)[:, None, None]
    vectors = vectors * torch.where((vectors @ w.unsqueeze(2)) < 0, -1.0, 1.0)
    nothing = torch.full(rows.shape, math.nan, dtype=torch.float64)
    known = {
        "vectors": vectors,
        "objective": nothing,
        "gradient_norm": nothing,
        "n_iter": torch.zeros_like(rows),
        "converged": torch.ones_like(rows, dtype=torch.bool),
    }
    projection = channels.vocabulary.projection
    arrays: dict[str, Any] = deflate(  # all are given: it reads them out, and solves nothing
        w.to(projection),
        projection,
        channels.vocabulary.token_weights.to(projection),
        n_channels=channels.n_channels,
        settings=channels.settings,
        indices=channels.indices,
        given={name: value.to(projection.device) for name, value in known.items()},
    )
    del arrays["history"]
    unknown: dict[str, Any] = dict.fromkeys(
        ("history", "support", "p_value", "q_value", "calibration")
    )
    return dataclasses.replace(channels, **arrays, **unknown)


def pursuit(
    targets: Float[Tensor, "n d"], dictionary: Float[Tensor, "k d"], n_each: int
) -> Int[Tensor, "n n_each"]:
    """Rows of a dictionary that rebuild each target, by orthogonal matching pursuit; float64.

    Each is the row that is most along what the rows before it leave of the target by least squares.

    Raises:
        ValueError: fewer rows than are wanted of each.
    """
    if len(dictionary) < n_each:
        raise ValueError(f"{len(dictionary)} directions: wanted at least {n_each}, one a channel")
    unit, left = normalize(dictionary.double()), targets.double()
    basis = left.new_zeros(len(left), n_each, left.shape[1])  # orthonormal; 0 where nothing new
    chosen = torch.empty(len(left), n_each, dtype=torch.long)
    free = torch.ones(len(left), len(unit), dtype=torch.bool)
    for i in range(n_each):
        along = (left @ unit.T).abs().masked_fill(~free, -1)
        chosen[:, i] = along.argmax(1)
        free.scatter_(1, chosen[:, i : i + 1], False)
        new = unit[chosen[:, i]]
        for _ in range(2):  # Gram-Schmidt, twice is enough
            new = new - ((basis @ new.unsqueeze(2)) * basis).sum(1)
        length = new.norm(dim=1, keepdim=True)
        basis[:, i] = torch.where(length > 1e-6, new / length, 0.0)
        left = left - basis[:, i] * (basis[:, i] * left).sum(1, keepdim=True)
    return chosen


# --- Both sides -----------------------------------------------------------------------------------


def paper_tests(
    model: Model,
    network: PreTrainedModel,
    inputs: Activations,
    channels: Mapping[str, Channels],
    saes: Mapping[str, SAE],
    *,
    n_positions: int = 2,
    n_rotations: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """The tests of chapters 8 and 9 at one layer: channels, latents and random directions.

    Args:
        model: its weights.
        network: the same, loaded.
        inputs: of held-out text at "mlp_in" of the layer, for both sides.
        channels: by kind, of the same neurons of one layer.
        saes: by site, "mlp_in" and "mlp_out", of this layer.
        n_positions: of each neuron, on the output side.
        n_rotations: matched rotations, which the tests make and this table leaves out.
        seed: of the random directions, rotations and bootstraps.

    Returns:
        One row per test and what, as :func:`against_random`, with the column test: faithfulness and
        completeness of the input side (gate and in together), AUROC and completeness of the output.
    """
    import pandas as pd

    layer = int(channels["out"].layer or 0)
    neurons = channels["out"].indices
    vectors = {
        kind: model.neurons(layer, kind, neurons).vectors for kind in channels if kind != "out"
    }
    act = activation_function(network)
    token_read = "current" if layer < model.n_layers / 2 else "next"
    reading = ReadingNeurons(inputs.windows, inputs.values, vectors, act, token_read)

    def read(part: Channels) -> tuple[pd.DataFrame, ...]:
        return input_ablation(reading, part, n_rotations=n_rotations, seed=seed)

    windows = inputs.windows
    x = torch.zeros(*windows.tokens.shape, inputs.values.shape[1])  # the ends do not count
    x[:, COUNTED] = inputs.values.view(len(windows), -1, x.shape[2])

    def written(part: Channels) -> tuple[pd.DataFrame, ...]:
        activation = neuron_activations(x, vectors.get("gate"), vectors["in"], act)
        options = {"n_positions": n_positions, "n_rotations": n_rotations, "seed": seed}
        options["context"] = min(CONTEXT, windows.tokens.shape[1] - 1)
        return output_ablation(network, part, windows, activation, **options)

    sides = [
        dictionary_ablation(channels[kind], saes["mlp_in"], model, read, seed=seed)
        for kind in vectors
    ]
    by_channel, by_neuron = (pd.concat(tables) for tables in zip(*sides, strict=True))
    out_channel, out_neuron = dictionary_ablation(
        channels["out"], saes["mlp_out"], model, written, seed=seed
    )
    share = RULES[FIXED].top_share
    figures = {
        "input: faithfulness": (by_channel[by_channel.rule == FIXED], "faithfulness"),
        "input: completeness": (by_neuron[by_neuron.top_share == share], "completeness"),
        "output: AUROC": (out_channel[out_channel.rule == FIXED], "auroc"),
        "output: completeness": (out_neuron[out_neuron.rule == FIXED], "completeness"),
    }
    tables = [
        against_random(table, column, ["layer"], seed=seed).assign(test=name)
        for name, (table, column) in figures.items()
    ]
    return pd.concat(tables, ignore_index=True)
