"""Does the whole model notice, and where? Its next-token distribution without a channel (ch. 9).

One channel is taken out of an out vector, at every position of a text. The Kullback-Leibler
divergence of the next-token distribution, of the model as it is from the model without, says in
nats how much the model's prediction at a position changes. It is read at

    on topic     positions where the neuron is active, and where the token that stands there, or the
                 one that follows, is in the channel's tail
    active       positions where the neuron is as active, and neither token is in the tail
    matched      other positions, of tokens as frequent as those on topic
    elsewhere    all other positions of the same texts

An ablation changes more where a neuron is more active, whatever its direction: so "elsewhere" alone
would flatter any vector, and "active" is the comparison that asks for the channel's meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.evidence import support
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import tails
from rotate_core.text.activations import mlp_of
from rotate_core.text.edit import ablate, contributions

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from rotate_core.text.corpus import Windows
    from rotate_core.text.edit import Ablation

TOP_SHARE = 0.01
"""Share of the positions, by |a|, where a neuron counts as active."""
LEAST_NATS = 1e-12
"""Where ratios are taken from: below it is the rounding of float32."""


def kl_divergence(
    before: Float[Tensor, "*positions d_vocab"], after: Float[Tensor, "*positions d_vocab"]
) -> Float[Tensor, "*positions"]:
    """KL of softmax(before) from softmax(after), in nats.

    With d the difference of log-probabilities, ``sum p (exp(d) - 1 - d)``: the same as
    ``-sum p d``, and no sum of large terms that cancel, so that 1e-9 is still right.
    """
    p = before.log_softmax(-1)
    d = after.log_softmax(-1) - p
    return (p.exp() * (d.expm1() - d)).sum(-1)


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
class Places:
    """Where one channel's divergence is read."""

    windows: Int[Tensor, " n_windows"]
    """Numbers of the windows to run."""
    on: Bool[Tensor, "n_windows length"]
    active: Bool[Tensor, "n_windows length"]
    matched: Bool[Tensor, "n_windows length"]
    elsewhere: Bool[Tensor, "n_windows length"]


def places(
    windows: Windows,
    activation: Float[Tensor, "n_windows length"],
    tail: Bool[Tensor, " d_vocab"],
    frequency: Float[Tensor, " d_vocab"],
    *,
    n: int = 1,
    top_share: float = TOP_SHARE,
) -> Places | None:
    """Positions on topic and off, for one neuron and one tail; None where there are none of a sort.

    Args:
        windows: of text; a window's first and last position are left out.
        activation: a, at every position.
        tail: which tokens are the channel's.
        frequency: how often each token is in text.
        n: windows with the strongest positions on topic. As many more hold a position off topic
            where the neuron is as active.
        top_share: of the positions, by |a|, where the neuron counts as active.
    """
    size = activation.abs().clone()
    size[:, [0, -1]] = 0
    count = max(1, int(top_share * size[:, 1:-1].numel()))
    active = size >= size.flatten().topk(count).values[-1]
    following = windows.tokens.roll(-1, 1)
    topical = tail[windows.tokens] | tail[following]
    on = size.masked_fill(~(active & topical), -1)
    free = size.masked_fill(~active | topical, torch.inf)

    best = on.max(1).values
    first = best.topk(min(n, int((best > 0).sum()))).indices
    free[first] = torch.inf  # texts with a position on topic serve for that
    pairs, ends = [], {"on": torch.zeros_like(active), "active": torch.zeros_like(active)}
    for window in first.tolist():
        nearest = (free - best[window]).abs().min(1)
        if not torch.isfinite(nearest.values).any():
            break
        other = int(nearest.values.argmin())
        free[other] = torch.inf
        pairs.append((window, other))
        ends["on"][window, on[window].argmax()] = True
        ends["active"][other, nearest.indices[other]] = True
    if not pairs:
        return None
    rows = torch.tensor(pairs).flatten()

    inside = torch.zeros_like(active)
    inside[:, 1:-1] = True
    rest = (inside & ~active & ~topical)[rows]
    # As frequent as the tail's token: the one that stands on topic, or else the next.
    on_topic = ends["on"][rows]
    rates = frequency[torch.stack([windows.tokens[rows], following[rows]])].log1p()
    which = (~tail[windows.tokens[rows]][on_topic]).long()  # 0: the token itself, 1: the next
    wanted = rates[:, on_topic].gather(0, which[None])[0]
    distance = wanted[:, None] - rates[:, rest][which]
    near = rest.nonzero()[distance.abs().argmin(1)]
    matched = torch.zeros_like(rest)
    matched[near[:, 0], near[:, 1]] = True
    return Places(rows, ends["on"][rows], ends["active"][rows], matched, rest)


def divergence(
    model: PreTrainedModel,
    channels: Channels,
    neurons: Sequence[int],
    windows: Windows,
    activation: Float[Tensor, "n_windows length n_neurons"],
    frequency: Float[Tensor, " d_vocab"],
    *,
    n_channels: int = 1,
    n_windows: int = 1,
    top_share: float = TOP_SHARE,
    rotate: bool = True,
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
        frequency: how often each token is in text.
        n_channels: of each neuron.
        n_windows: n of :func:`places`.
        top_share: as for :func:`places`.
        rotate: measure a matched rotation of each channel as well, at the same positions.
        seed: of the rotations.

    Returns:
        One row per channel: nats on topic, active, matched, elsewhere (means over positions), and
        ``over_active``, ``over_matched``, ``over_elsewhere``: log10 of the ratio of on topic to
        each. With ``rotate``, the same for the rotation, names ending in ``_rotation``.
    """
    import pandas as pd

    assert channels.layer is not None
    member, order = tails(channels), support(channels).argsort(1, descending=True)
    sets = torch.cat([channels.vectors[None], matched_rotations(channels, 1, seed=seed)])
    rows = []
    for i, (name, neuron) in enumerate(zip(channels.indices, neurons, strict=True)):
        parts = contributions(channels.weight_vectors[i].expand(2, -1), sets[:, i])
        found = 0
        for k in order[i].tolist():
            if found == n_channels:
                break
            here = activation[..., i], member[i, k], frequency
            at = places(windows, *here, n=n_windows, top_share=top_share)
            if at is None:
                continue
            found += 1
            ablations = [
                (channels.layer, neuron, "out", part) for part in parts[: 1 + rotate, k].unbind()
            ]
            kl = divergences(model, ablations, windows.tokens[at.windows])
            row: dict[str, Any] = {"neuron": name, "channel": k, "n_on": int(at.on.sum())}
            for values, suffix in zip(kl, ("", "_rotation"), strict=False):
                row |= {key + suffix: value for key, value in _read(values, at).items()}
            rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"neuron": []})


def _read(kl: Float[Tensor, "n_windows length"], at: Places) -> dict[str, float]:
    """Means over the positions of each sort, and log10 ratios of the first to the others."""
    nats = {name: kl[getattr(at, name)].mean() for name in ("on", "active", "matched", "elsewhere")}
    ratios = {
        f"over_{name}": (
            nats["on"].clamp_min(LEAST_NATS) / nats[name].clamp_min(LEAST_NATS)
        ).log10()
        for name in ("active", "matched", "elsewhere")
    }
    return {name: value.item() for name, value in (nats | ratios).items()}
