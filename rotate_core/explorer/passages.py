"""A neuron on ten passages of a text, as it is and without each of its channels, as plain data.

The passages are those where it is most active: extremes, chosen for being so. What taking channels
out does as a rule is measured in :mod:`rotate_core.experiments.input_ablation`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.descriptions.exemplars import exemplars
from rotate_core.experiments.input_ablation import ReadingNeurons
from rotate_core.null.matched import matched_rotations, own_seed
from rotate_core.rotation.threads import team
from rotate_core.text.edit import contributions
from rotate_core.text.sites import activation_function

if TYPE_CHECKING:
    from rotate_core.explorer.source import Source
    from rotate_core.text import Activations

N_PASSAGES = 10
LENGTH = 24
"""Tokens of a passage."""
LEVELS = 32_767
"""Activations are stored as whole numbers up to this one: peaks of both signs keep theirs."""
N_TOKENS = 10
"""Tokens of a channel that what an out vector writes is measured on."""
N_ROTATIONS = 20
"""Random directions beside each channel."""


def reader(
    source: Source, inputs: Mapping[int, Activations]
) -> Callable[[Channels], dict[str, Any] | None]:
    """A function that gives the passages of one neuron's channels; None for a layer without inputs.

    Args:
        source: of the channels.
        inputs: by layer, at "mlp_in", of held-out text: all neurons share one pass over it.

    Raises:
        ValueError: the inputs are another site's, or norms are folded into the vectors, which then
            are not what the model multiplies its inputs with.
    """
    if other := {x.site for x in inputs.values()} - {"mlp_in"}:
        raise ValueError(f"inputs at {', '.join(sorted(other))}: wanted mlp_in")
    if source.fold_norm:
        raise ValueError("norms are folded into the channels: passages want vectors as they are")
    model = source.model
    act = activation_function(model.transformers())

    def read(channels: Channels) -> dict[str, Any] | None:
        assert channels.layer is not None
        if (x := inputs.get(channels.layer)) is None:
            return None
        vectors = {
            kind: model.neurons(channels.layer, kind, channels.indices).vectors
            for kind in model.kinds
            if kind != "out"
        }
        neuron = ReadingNeurons(x.windows, x.values, vectors, act)
        with team(x.values.device):  # all operations are small: threads would wait for each other
            return passages(channels, neuron, seed=source.seed)

    return read


def passages(channels: Channels, neuron: ReadingNeurons, *, seed: int = 0) -> dict[str, Any]:
    """Ten passages where a neuron is most active, before and after each channel is taken out.

    Ours: what a channel does is seen where there is most to take away. By rule, half of the
    passages are around its largest positive activations, half around its largest negative ones,
    of a side one of each document; where one side has fewer, the other has more.

    Out of a gate or in vector goes the part that is the channel's own, as everywhere in the book
    (:func:`rotate_core.text.edit.contributions`), and the activation is computed again from the
    same MLP inputs. An out vector does not change its neuron's activation: there it is the mean
    projection on the channel's furthest tokens, less that on all tokens, which the activation is
    multiplied with. Beside each stands the mean of the same for matched rotations: random
    directions at the channels' own cosines with the neuron, in the channels' place.

    Args:
        channels: of one neuron.
        neuron: the same one, on a text. Biases are left out.
        seed: of the rotations.

    Returns:
        Ready for JSON. ``before``, and ``after`` of a gate or in channel, are activations at all
        tokens, passage by passage, over ``scale``: int16 in base64. ``left`` is the share of the
        activation at the peaks, all together, that is left without a channel, ``random`` without a
        rotation. Of an out channel ``writes`` has the mean projection on its ``tokens`` as it is,
        without the channel, and without a rotation.
    """
    windows, kind = neuron.windows, channels.kind
    a = neuron.activation().view(len(windows), -1)
    peaks = _peaks(a, windows.document)
    told = {
        "text": windows.source,
        "nTokens": windows.tokens.numel(),
        "nArticles": len(windows.document.unique()),
        "nRandom": N_ROTATIONS,
    }
    if not len(peaks):
        return told | {"scale": 0, "before": "", "passages": [], "channels": []}
    n_counted = a.shape[1]
    n = min(LENGTH, n_counted)
    start = (peaks[:, 1] - n // 2).clamp(0, n_counted - n)
    rows = (peaks[:, 0] * n_counted + start).unsqueeze(1) + torch.arange(n)
    at = peaks[:, 1] - start

    before = a.flatten()[rows]
    w = channels.weight_vectors
    rotations = matched_rotations(channels, N_ROTATIONS, seed=own_seed(seed, channels.indices[0]))
    edited = w - contributions(w, channels.vectors)[0]
    null = w - contributions(w.expand(N_ROTATIONS, -1), rotations[:, 0])
    if kind == "out":
        parts, after = _written(channels, edited, null), before[:0]
    else:
        assert kind is not None
        x, peak = neuron.x[rows], (torch.arange(len(at)), at)
        after = neuron.edited(0, x, {kind: edited}).movedim(-1, 0)
        random = neuron.edited(0, x[peak], {kind: null.flatten(0, 1)}).T
        share = before[peak].sign() / before[peak].abs().sum()
        left = torch.stack([values[peak] for values in after]) @ share
        random = (random @ share).view(null.shape[:2]).mean(0)
        pairs = zip(left, random, strict=True)
        parts = [{"left": _rounded(one), "random": _rounded(other)} for one, other in pairs]
    scale = max(float(values.abs().max()) for values in (before, after) if len(values)) / LEVELS
    for part, values in zip(parts, after, strict=False):
        part["after"] = _whole(values / scale)
    titles = [windows.titles[i] for i in windows.document[peaks[:, 0]].tolist()]
    words = [[windows.strings[i] for i in ids] for ids in windows.current[rows].tolist()]
    texts = zip(titles, at.tolist(), words, strict=True)
    return told | {
        "scale": _rounded(scale, 7),
        "before": _whole(before / scale),
        "passages": [{"title": title, "peak": i, "tokens": text} for title, i, text in texts],
        "channels": parts,
    }


def _peaks(
    activation: Float[Tensor, "n_windows n_counted"], document: Int[Tensor, " n_windows"]
) -> Int[Tensor, "n_passages 2"]:
    """Window and place of the largest positive activations, and behind them the negative ones."""
    sides = []
    for signed in (activation, -activation):
        chosen = exemplars(signed, document, N_PASSAGES).tolist()
        sides.append([(i, int(signed[i].argmax())) for i in chosen if signed[i].max() > 0])
    half = N_PASSAGES // 2
    kept = [side[: max(half, N_PASSAGES - len(other))] for side, other in (sides, sides[::-1])]
    return torch.tensor(kept[0] + kept[1], dtype=torch.long).view(-1, 2)


def _written(
    channels: Channels,
    edited: Float[Tensor, "n_channels d_model"],
    null: Float[Tensor, "n_rotations n_channels d_model"],
) -> list[dict[str, Any]]:
    """Mean projection on each channel's furthest tokens, as it is, without it, without random ones.

    The tokens are those of the channel's first ten that are on the side of the furthest one.
    """
    u = channels.vocabulary.projection.float()
    mean = u.mean(1)
    parts = []
    for k, (ids, z) in enumerate(zip(channels.top_ids[0], channels.top_z[0], strict=True)):
        tokens = ids[:N_TOKENS][z[:N_TOKENS] * z[0] > 0]
        towards = (u[:, tokens].mean(1) - mean).to(edited)
        vectors = torch.stack([channels.weight_vectors[0], edited[k], null[:, k].mean(0)])
        parts.append(
            {
                "tokens": [channels.vocabulary.tokens[i] for i in tokens.tolist()],
                "writes": [_rounded(value) for value in vectors @ towards],
            }
        )
    return parts


def _whole(values: Tensor) -> str:
    """Numbers up to :data:`LEVELS`, rounded to int16, little-endian, in base64."""
    return base64.b64encode(values.round().numpy().astype("<i2").tobytes()).decode()


def _rounded(value: float | Tensor, digits: int = 4) -> float:
    return float(f"{float(value):.{digits}g}")
