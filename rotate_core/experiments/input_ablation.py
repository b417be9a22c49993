"""Does a channel of gate or in drive its own positions? Ablation on the input side (chapter 8).

A neuron's activation is ``a(x) = act(g . x) (u . x)``. With S the held-out positions where |a| is
in its top 1%, and a' the activation after channel k is taken out of g (or of u):

    D(S)            = 1 - sum_S |a'| / sum_S |a|             what the ablation takes away on S
    faithfulness_k  = D(E_k) - D(O_k)
    completeness    = D(S) with all channels taken out at once, less the null's

E_k are the positions in S whose token is in the tail of channel k, O_k those whose token is in the
tail of another channel of the neuron only. These are our definitions; the paper's are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import signed_z
from rotate_core.text.activations import neuron_activations
from rotate_core.text.edit import contributions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rule:
    """The thresholds of the input side: fixed before results were looked at."""

    top_share: float = 0.01
    """Share of the positions, by |a|, that count as a neuron's own."""
    least: int = 10
    """Positions that E_k and O_k need, else the channel is counted as skipped."""
    quantile: float = 0.95
    """A channel passes above this quantile of its matched rotations."""
    threshold: float | None = None
    """z-score above which a token is in a tail; None: the channels' own."""


FIXED = "as fixed"
RULES = {
    FIXED: Rule(),
    "top 0.5% of positions": Rule(top_share=0.005),
    "top 2% of positions": Rule(top_share=0.02),
    "at least 5 positions": Rule(least=5),
    "at least 20 positions": Rule(least=20),
    "above the 90th percentile": Rule(quantile=0.9),
    "above all rotations": Rule(quantile=1.0),
    "tails from z = 3": Rule(threshold=3.0),
    "tails from z = 5": Rule(threshold=5.0),
}
"""The rule, and others to see what depends on it: one threshold changed at a time."""


@dataclass(frozen=True, eq=False)
class Side:
    """One layer's neurons as they read text: all that the input side needs."""

    x: Float[Tensor, "n_positions d_model"]
    """The MLP's input at the counted positions."""
    tokens: Mapping[str, Int[Tensor, " n_positions"]]
    """The tokens to look up in channels' tails, by reading: the current one, the next."""
    gate: Float[Tensor, "n_neurons d_model"] | None
    in_: Float[Tensor, "n_neurons d_model"]
    act: torch.nn.Module

    def swapped(self, kind: str, vectors: Float[Tensor, "n d_model"], rows: list[int]) -> Side:
        """Matched vectors: ``vectors`` for one kind, the partners of the neurons in ``rows``."""
        if kind == "gate":
            return replace(self, gate=vectors, in_=self.in_[rows])
        return replace(self, gate=None if self.gate is None else self.gate[rows], in_=vectors)


def input_ablation(
    side: Side,
    channels: Channels,
    kind: str,
    *,
    n_rotations: int = 20,
    rules: Mapping[str, Rule] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Faithfulness of each channel and completeness of each neuron, beside matched rotations.

    Args:
        side: the neurons of ``channels``, in the same order, on held-out text.
        channels: of one kind of these neurons.
        kind: "gate" or "in": which vector is edited.
        n_rotations: for each channel, one set of rotations of all the neuron's channels at a time.
        rules: thresholds by name; None: :data:`RULES`.
        seed: of the rotations.

    Returns:
        One row per channel, reading, rule and mode ("subtract" takes away ``alpha_k c_k``, alpha by
        least squares, "project" the whole component along c_k): n_own, n_other, d_own, d_other,
        faithfulness, rotation (its mean over rotations), passes; NaN where skipped. And one row
        per neuron and share of positions: completeness, rotation. Both modes are one there, because
        least squares of all channels takes out just their span.
    """
    import pandas as pd

    if kind not in ("gate", "in"):
        raise ValueError(f"kind={kind!r}: the input side has gate and in")
    rules = RULES if rules is None else rules
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    channel_rows, neuron_rows = [], []
    for i, neuron in enumerate(channels.indices):
        gate = None if side.gate is None else side.gate[i : i + 1]
        in_ = side.in_[i : i + 1]
        size = neuron_activations(side.x, gate, in_, side.act).abs().squeeze(1)
        n_top = {name: max(1, int(rule.top_share * len(size))) for name, rule in rules.items()}
        top = size.topk(max(n_top.values())).indices  # strongest first: every rule's are a start
        x, before = side.x[top], size[top]

        def after(edited: Tensor) -> Tensor:  # (n_edits, d_model) -> (n_top, n_edits)
            g, u = (edited, in_) if kind == "gate" else (gate, edited)  # noqa: B023
            return neuron_activations(x, g, u, side.act).abs()  # noqa: B023

        w = channels.weight_vectors[i]
        vectors = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])  # ours first
        parts = contributions(w.expand(len(vectors), -1), vectors)
        unit = vectors / vectors.norm(dim=-1, keepdim=True)
        taken = {"subtract": parts, "project": unit * (unit @ w).unsqueeze(-1)}
        z = signed_z(channels, i)
        z_at = {reading: z[:, token[top]] for reading, token in side.tokens.items()}

        for mode, vector in taken.items():
            a = after(w - vector.flatten(0, 1)).unflatten(1, vector.shape[:2])
            for name, rule in rules.items():
                first = slice(0, n_top[name])
                threshold = (
                    channels.settings.threshold if rule.threshold is None else rule.threshold
                )
                for reading, at in z_at.items():
                    member = at[:, first] > threshold
                    place = {"neuron": neuron, "mode": mode, "rule": name, "reading": reading}
                    scored = _scores(a[first], before[first], member, rule)
                    channel_rows += [place | row for row in scored]
        a = after(w - parts.sum(1))
        for share, n in dict.fromkeys((rules[name].top_share, n_top[name]) for name in rules):
            removed = 1 - a[:n].sum(0) / before[:n].sum()
            row = {"completeness": removed[0].item(), "rotation": removed[1:].mean().item()}
            neuron_rows.append({"neuron": neuron, "top_share": share} | row)
    return pd.DataFrame(channel_rows), pd.DataFrame(neuron_rows)


def _scores(
    after: Float[Tensor, "n_top n_sets n_channels"],
    before: Float[Tensor, " n_top"],
    member: Bool[Tensor, "n_channels n_top"],
    rule: Rule,
) -> list[dict[str, Any]]:
    """One row per channel; the first set is the neuron's own channels, the others are rotations."""
    own = member.to(before)
    other = (member.any(0) & ~member).to(before)
    d_own, d_other = (
        1 - torch.einsum("tsk,kt->sk", after, where) / (where @ before) for where in (own, other)
    )
    f = d_own - d_other
    limit = f[1:].quantile(rule.quantile, 0)
    skipped = torch.minimum(own.sum(1), other.sum(1)) < rule.least
    found = {
        "d_own": d_own[0],
        "d_other": d_other[0],
        "faithfulness": f[0],
        "rotation": f[1:].mean(0),
        "passes": (f[0] > limit).to(f),
    }
    columns = {
        "channel": torch.arange(len(member)),
        "n_own": own.sum(1).int(),
        "n_other": other.sum(1).int(),
        "skipped": skipped,
    } | {name: values.masked_fill(skipped, torch.nan) for name, values in found.items()}
    names, values = list(columns), [column.tolist() for column in columns.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


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
