"""Divergence of the next-token distribution without a channel, by position (chapter 9).

One channel is taken out of an out vector, at every position of a text. The Kullback-Leibler
divergence of the next-token distribution, of the model as it is from the model without, says in
nats how much the model's prediction at a position changes. It is read at

    on topic     where the neuron is active, and the token that stands there, or the one that
                 follows, is in the channel's tail: the strongest such position
    active       a position where the neuron is as active, and neither token is in the tail
    as frequent  another position, of a token as frequent as the one on topic
    elsewhere    all other positions of the same texts

An ablation changes more where a neuron is more active, whatever its direction: so "elsewhere" alone
would flatter any vector, and "active" is the comparison that asks for the channel's meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.evidence import tail_evidence
from rotate_core.null.matched import matched_rotations
from rotate_core.text.edit import ablate, contributions
from rotate_core.text.sites import mlp_of

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.text.corpus import Windows
    from rotate_core.text.edit import Ablation

TOP_SHARE = 0.01
"""Share of the positions, by |a|, where a neuron counts as active."""
LEAST_NATS = 1e-12
"""Where ratios are taken from: below it is the rounding of float32."""
LEAST_DIFFERENCE = 0.1
"""A topic's effect below it, in powers of ten, is called none: a quarter more divergence."""
POSITIONS = ("on_topic", "active", "as_frequent", "elsewhere")
OVER = tuple(f"over_{name}" for name in POSITIONS[1:])


def kl_divergence(
    before: Float[Tensor, "*positions d_vocab"], after: Float[Tensor, "*positions d_vocab"]
) -> Float[Tensor, "*positions"]:
    """KL of softmax(before) from softmax(after), in nats.

    With d the difference of log-probabilities, ``sum p (exp(d) - 1 - d)``: the same as
    ``-sum p d``, and no sum of large terms that cancel, so that 1e-9 is still right.
    """
    log_p = before.log_softmax(-1)
    return divergence_of(log_p, after.log_softmax(-1) - log_p)


def divergence_of(
    log_p: Float[Tensor, "*positions d_vocab"], change: Float[Tensor, "*positions d_vocab"]
) -> Float[Tensor, "*positions"]:
    """:func:`kl_divergence`, of log-probabilities and how each of them changes."""
    return change.expm1().sub_(change).mul_(log_p.exp()).sum(-1)


def divergences(
    model: PreTrainedModel,
    ablations: Sequence[Ablation],
    tokens: Int[Tensor, "n_windows length"],
) -> Float[Tensor, "n_ablations n_windows length"]:
    """KL at every position of some texts, for each ablation by itself; float32 on the CPU.

    A text is run once up to the layer's MLP, and from there on once more for each ablation.

    Args:
        model: a loaded transformers model.
        ablations: as :func:`rotate_core.ablate` takes them, all of one layer; their vectors are
            subtracted.
        tokens: windows without padding.

    Raises:
        ValueError: ablations of several layers, or none.
    """
    layers = sorted({layer for layer, *_ in ablations})
    if len(layers) != 1:
        raise ValueError(f"ablations of layers {layers}: wanted one layer")

    def with_variants(mlp: torch.nn.Module, args: Any, output: Tensor) -> Tensor:
        outputs = [output]
        for ablation in ablations:
            with ablate(model, [ablation]):
                outputs.append(mlp.forward(*args))
        return torch.cat(outputs)  # the residual stream of the one text is added to each

    results = []
    handle = mlp_of(model, layers[0]).register_forward_hook(with_variants)
    try:
        with torch.no_grad():
            for window in tokens.to(model.device):
                logits = model(window[None], use_cache=False).logits.float()
                results.append(kl_divergence(logits[:1], logits[1:]).cpu())
    finally:
        handle.remove()
    return torch.stack(results, 1)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where one channel's divergence is read."""

    windows: Int[Tensor, " n_windows"]
    """Numbers of the two windows to run: one with a position on topic, one with an active one."""
    masks: dict[str, Bool[Tensor, "n_windows length"]]
    """By the names of :data:`POSITIONS`."""


def positions(
    windows: Windows,
    activation: Float[Tensor, "n_windows length"],
    tail: Bool[Tensor, " d_vocab"],
    frequency: Int[Tensor, " d_vocab"],
) -> Positions | None:
    """Positions on topic and off, for one neuron and one tail; None where there are none of a sort.

    Args:
        windows: of text; a window's first and last position are left out.
        activation: of the neuron, at every position.
        tail: which tokens are the channel's.
        frequency: how often each token is in text.
    """
    size = activation.abs().clone()
    size[:, [0, -1]] = 0
    count = max(1, int(TOP_SHARE * size[:, 1:-1].numel()))
    active = size >= size.flatten().topk(count).values[-1]
    following = windows.tokens.roll(-1, 1)
    topical = tail[windows.tokens] | tail[following]

    strength = size.masked_fill(~(active & topical), 0)
    on_topic = divmod(int(strength.argmax()), size.shape[1])
    distance = (size - size[on_topic]).abs().masked_fill(~active | topical, torch.inf)
    distance[on_topic[0]] = torch.inf
    as_active = divmod(int(distance.argmin()), size.shape[1])
    if not strength[on_topic] or distance[as_active].isinf():
        return None

    rows = torch.tensor([on_topic[0], as_active[0]])
    inside = torch.zeros_like(active)
    inside[:, 1:-1] = True
    elsewhere = (inside & ~active & ~topical)[rows]
    # As frequent as the tail's token: the one that stands on topic, or else the next.
    read = windows.tokens if tail[windows.tokens[on_topic]] else following
    rate = frequency.log1p()[read]
    distance = (rate[rows] - rate[on_topic]).abs().masked_fill(~elsewhere, torch.inf)
    at = ((0, on_topic[1]), (1, as_active[1]), divmod(int(distance.argmin()), size.shape[1]))
    masks = {name: torch.zeros_like(elsewhere) for name in POSITIONS[:3]}
    for mask, where in zip(masks.values(), at, strict=True):
        mask[where] = True
    return Positions(rows, masks | {"elsewhere": elsewhere})


def divergence(
    model: PreTrainedModel,
    channels: Channels,
    neurons: Sequence[int],
    windows: Windows,
    activation: Float[Tensor, "n_windows length n_neurons"],
    *,
    n_channels: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Divergence on topic and off, of the best supported channels of each neuron.

    The channels are chosen by support among those with a position on topic, before any model runs.

    Args:
        model: a loaded transformers model.
        channels: of out vectors of one layer; they may be matched vectors'.
        neurons: numbers of the neurons whose vector each row's channels are taken out of.
        windows: of text.
        activation: of these neurons, at every position.
        n_channels: of each neuron.
        seed: of the rotations.

    Returns:
        One row per channel: log10 of the mean nats at each of :data:`POSITIONS`, and that on topic
        less that at each other one (:data:`OVER`). The same for a matched rotation of the channel,
        at the same positions, in columns that end in ``_rotation``. A neuron without a channel that
        has a position on topic has one row without figures, its channel -1.
    """
    import pandas as pd

    assert channels.layer is not None
    d_vocab = len(channels.vocabulary.tokens)
    frequency = torch.bincount(windows.tokens.flatten(), minlength=d_vocab)
    evidence = tail_evidence(channels)
    member = evidence.tails.mask(d_vocab).view(*evidence.support.shape, d_vocab)
    order = evidence.support.argsort(1, descending=True)
    sets = torch.cat([channels.vectors[None], matched_rotations(channels, 1, seed=seed)])
    names = [name + suffix for suffix in ("", "_rotation") for name in (*POSITIONS, *OVER)]
    rows = []
    for i, (label, neuron) in enumerate(zip(channels.indices, neurons, strict=True)):
        parts = contributions(channels.weight_vectors[i].expand(2, -1), sets[:, i])
        each = (
            (k, positions(windows, activation[..., i], member[i, k], frequency)) for k in order[i]
        )
        chosen = list(islice(((k, at) for k, at in each if at is not None), n_channels))
        if not chosen:
            rows.append({"neuron": label, "channel": -1} | dict.fromkeys(names, math.nan))
        for k, at in chosen:
            ablations = [(channels.layer, neuron, "out", part) for part in parts[:, k]]
            kl = divergences(model, ablations, windows.tokens[at.windows])
            figures: list[float] = []
            for values in kl:
                nats = torch.stack([values[mask].mean() for mask in at.masks.values()])
                log = nats.clamp_min(LEAST_NATS).log10()
                figures += torch.cat([log, log[0] - log[1:]]).tolist()
            row = {"neuron": label, "channel": int(k)}
            rows.append(row | dict(zip(names, figures, strict=True)))
    return pd.DataFrame(rows)
