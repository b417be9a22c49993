"""Does a channel of gate or in drive its own positions? Ablation on the input side (chapter 8).

A neuron's activation is ``a(x) = act(g . x) (u . x)``. With S the held-out positions where |a| is
in its top 1%, and a' the activation after channel k is taken out of g (or of u):

    D(S)            = 1 - sum_S |a'| / sum_S |a|             what the ablation takes away on S
    faithfulness_k  = D(E_k) - D(O_k)
    completeness    = D(S) with all channels taken out at once

E_k are the positions in S whose token is in the tail of channel k, O_k those whose token is in the
tail of another channel of the neuron only. These are our definitions; the paper's are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.experiments.ablation import contributions
from rotate_core.experiments.activations import neuron_activations
from rotate_core.support import matched_rotations

if TYPE_CHECKING:
    import pandas as pd

TOP_SHARE = 0.01
"""Share of the positions that count as a neuron's own."""
LEAST = 10
"""Positions that E_k and O_k need, else the channel is counted as skipped."""
QUANTILE = 0.95
"""A channel passes above this quantile of its matched rotations."""


@dataclass(frozen=True, eq=False)
class Side:
    """One layer's neurons as they read text: all that the input side needs."""

    x: Float[Tensor, "n_positions d_model"]
    """The MLP's input at the counted positions."""
    token: Int[Tensor, " n_positions"]
    """The token to look up in channels' tails: the current one, or the next."""
    gate: Float[Tensor, "n_neurons d_model"] | None
    in_: Float[Tensor, "n_neurons d_model"]
    act: torch.nn.Module

    def swapped(self, kind: str, vectors: Float[Tensor, "n d_model"], rows: Tensor) -> Side:
        """Virtual neurons: ``vectors`` for one kind, the partners of the neurons in ``rows``."""
        if kind == "gate":
            return Side(self.x, self.token, vectors, self.in_[rows], self.act)
        gate = None if self.gate is None else self.gate[rows]
        return Side(self.x, self.token, gate, vectors, self.act)


def tails(channels: Channels) -> Bool[Tensor, "n_neurons n_channels d_vocab"]:
    """Which tokens are in each channel's tail: beyond the threshold on its heavy side, or both."""
    projection = channels.vocabulary.projection
    allowed = (channels.vocabulary.token_weights > 0).cpu()
    found = torch.empty(*channels.vectors.shape[:2], projection.shape[1], dtype=torch.bool)
    for i, (vectors, tail) in enumerate(zip(channels.vectors, channels.tail, strict=True)):
        z = vectors.to(projection) @ projection
        z = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)).cpu()
        side = torch.where(tail.unsqueeze(1) == 0, z.sign(), tail.unsqueeze(1).to(z))
        found[i] = (z * side > channels.settings.threshold) & allowed
    return found


def input_ablation(
    side: Side,
    channels: Channels,
    kind: str,
    *,
    n_rotations: int = 20,
    top_share: float = TOP_SHARE,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Faithfulness of each channel and completeness of each neuron, beside matched rotations.

    Args:
        side: the neurons of ``channels``, in the same order, on held-out text.
        channels: of one kind of these neurons.
        kind: "gate" or "in": which vector is edited.
        n_rotations: for each channel, one set of rotations of all the neuron's channels at a time.
        top_share: of the positions, by |a|, that count as a neuron's own.
        seed: of the rotations.

    Returns:
        A row a channel and mode ("subtract" takes away ``alpha_k c_k`` with alpha by least squares,
        "project" the whole component along c_k): n_own, n_other, d_own, d_other, faithfulness,
        rotation (its mean over rotations), passes; NaN where skipped. And a row a neuron:
        completeness, rotation.
    """
    import pandas as pd

    if kind not in ("gate", "in"):
        raise ValueError(f"kind={kind!r}: the input side has gate and in")
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    in_tail = tails(channels)
    channel_rows, neuron_rows = [], []
    for i, neuron in enumerate(channels.indices):
        gate = None if side.gate is None else side.gate[i : i + 1]
        in_ = side.in_[i : i + 1]
        size = neuron_activations(side.x, gate, in_, side.act).abs().squeeze(1)
        top = size.topk(max(1, int(top_share * len(size)))).indices
        x, before = side.x[top], size[top]

        def after(edited: Tensor) -> Tensor:  # (n_edits, d_model) -> (n_top, n_edits)
            g, u = (edited, in_) if kind == "gate" else (gate, edited)  # noqa: B023
            return neuron_activations(x, g, u, side.act).abs()  # noqa: B023

        w = channels.weight_vectors[i]
        vectors = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])  # ours first
        parts = contributions(w.expand(len(vectors), -1), vectors)
        unit = vectors / vectors.norm(dim=-1, keepdim=True)
        taken = {"subtract": parts, "project": unit * (unit @ w).unsqueeze(-1)}

        member = in_tail[i][:, side.token[top]]  # (n_channels, n_top)
        for mode, vector in taken.items():
            a = after(w - vector.flatten(0, 1)).T.unflatten(0, vector.shape[:2])
            for k in range(channels.n_channels):
                own = member[k]
                other = member.any(0) & ~own
                enough = min(int(own.sum()), int(other.sum())) >= LEAST
                d_own, d_other = (
                    1 - a[:, k, where].sum(1) / before[where].sum() for where in (own, other)
                )
                f = d_own - d_other
                nan = float("nan")
                channel_rows.append(
                    {
                        "neuron": neuron,
                        "channel": k,
                        "mode": mode,
                        "n_own": int(own.sum()),
                        "n_other": int(other.sum()),
                        "skipped": not enough,
                        "d_own": d_own[0].item() if enough else nan,
                        "d_other": d_other[0].item() if enough else nan,
                        "faithfulness": f[0].item() if enough else nan,
                        "rotation": f[1:].mean().item() if enough else nan,
                        "passes": float(f[0] > f[1:].quantile(QUANTILE)) if enough else nan,
                    }
                )
        a = after(w - parts.sum(1))
        removed = 1 - a.sum(0) / before.sum()
        neuron_rows.append(
            {
                "neuron": neuron,
                "completeness": removed[0].item(),
                "rotation": removed[1:].mean().item(),
            }
        )
    return pd.DataFrame(channel_rows), pd.DataFrame(neuron_rows)


def before_and_after(
    side: Side, channels: Channels, kind: str, row: int, channel: int
) -> tuple[Float[Tensor, " n_positions"], Float[Tensor, " n_positions"]]:
    """A neuron's activation at every position, as it is and without one channel ("subtract")."""
    gate = None if side.gate is None else side.gate[row : row + 1]
    in_ = side.in_[row : row + 1]
    w = channels.weight_vectors[row : row + 1]
    edited = w - contributions(w, channels.vectors[row : row + 1])[:, channel]
    before = neuron_activations(side.x, gate, in_, side.act)
    gate, in_ = (edited, in_) if kind == "gate" else (gate, edited)
    return before.squeeze(1), neuron_activations(side.x, gate, in_, side.act).squeeze(1)
