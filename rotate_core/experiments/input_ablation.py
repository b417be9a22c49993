"""Ablation on the input side: activation on a channel's own positions without it (chapter 8).

A neuron's activation is ``a(x) = act(g . x) (u . x)``. With S the held-out positions where |a| is
in its top 1%, and a' the activation after channel k is taken out of g (or of u):

    D(S)            = 1 - sum_S |a'| / sum_S |a|             what the ablation takes away on S
    faithfulness_k  = D(E_k) - D(O_k)
    completeness    = D(S) with all channels taken out at once, less the null's

E_k are the positions in S whose token is in the tail of channel k, O_k those whose token is in the
tail of another channel of the neuron only. These are our definitions; the paper's are not public.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.channels import Channels
from rotate_core.models.tokens import visible
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import signed_z
from rotate_core.text.corpus import Windows
from rotate_core.text.edit import contributions
from rotate_core.text.sites import neuron_activations

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rule:
    """How the input side is measured: fixed before results were looked at."""

    top_share: float = 0.01
    """Share of the positions, by |a|, that count as a neuron's own."""
    least: int = 10
    """Positions that E_k and O_k need, else the channel is counted as skipped."""
    quantile: float = 0.95
    """A channel passes above this quantile of its matched rotations."""
    threshold: float | None = None
    """z-score above which a token is in a tail; None: the channels' own."""
    mode: str = "subtract"
    """"subtract" takes ``alpha_k c_k`` away, alpha by least squares over the neuron's channels;
    "project" takes away the whole component along c_k."""
    other_token: bool = False
    """Look up the next token where the layer's neurons read the current one, and vice versa."""


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
    "projected out": Rule(mode="project"),
    "the other token read": Rule(other_token=True),
}
"""The rule, and others to see what depends on it: one setting changed at a time."""


@dataclass(frozen=True, eq=False)
class ReadingNeurons:
    """A text, the MLP input at each of its positions, and the vectors that neurons read it by."""

    windows: Windows
    x: Float[Tensor, "n_positions d_model"]
    """The MLP input of the layer at the counted positions."""
    vectors: dict[str, Float[Tensor, "n_neurons d_model"]]
    """By kind: in, and gate where the MLP is gated."""
    act: torch.nn.Module
    token_read: str = "current"
    """"current" or "next": the token that is looked up in tails."""

    def activation(self) -> Float[Tensor, "n_positions n_neurons"]:
        """Each neuron's activation at every counted position."""
        return neuron_activations(self.x, self.vectors.get("gate"), self.vectors["in"], self.act)

    def edited(
        self,
        row: int,
        x: Float[Tensor, "*batch d_model"],
        vectors: dict[str, Float[Tensor, "n_edits d_model"]],
    ) -> Float[Tensor, "*batch n_edits"]:
        """One neuron's activation at MLP inputs ``x``, with other vectors of a kind for its own."""
        own = {kind: rows[row : row + 1] for kind, rows in self.vectors.items()}
        return replace(self, x=x, vectors=own | vectors).activation()

    def tokens(self, *, other: bool = False) -> Int[Tensor, " n_positions"]:
        """The token read at each counted position; ``other``: the one that is not."""
        return self.windows.next if (self.token_read == "next") != other else self.windows.current


def input_ablation(
    neurons: ReadingNeurons, channels: Channels, *, n_rotations: int = 20, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Faithfulness of each channel and completeness of each neuron, beside matched rotations.

    Args:
        neurons: those of ``channels``, in the same order, on held-out text; or those in whose
            place matched vectors stand, with the neurons' other vector as a partner.
        channels: of gate or in vectors.
        n_rotations: for each channel, one set of rotations of all the neuron's channels at a time.
        seed: of the rotations.

    Returns:
        One row per channel and rule of :data:`RULES`: n_own, n_other, d_own, d_other, faithfulness,
        rotation (its mean over rotations), passes; NaN where skipped. And one row per neuron and
        share of positions: completeness, rotation. (No modes there: least squares of all channels
        takes out just their span.)

    Raises:
        ValueError: channels of another kind.
    """
    import pandas as pd

    kind = channels.kind
    if kind not in ("gate", "in"):
        raise ValueError(f"kind={kind!r}: the input side has gate and in")
    rotations = matched_rotations(channels, n_rotations, seed=seed)
    n_top = {
        rule.top_share: max(1, int(rule.top_share * len(neurons.x))) for rule in RULES.values()
    }
    channel_rows, neuron_rows = [], []
    for i, (neuron, w) in enumerate(zip(channels.indices, channels.weight_vectors, strict=True)):
        a = neurons.edited(i, neurons.x, {kind: w[None]}).squeeze(1)
        before, top = a.abs().topk(max(n_top.values()))  # strongest first: every rule's are a start
        x = neurons.x[top]
        vectors = torch.cat([channels.vectors[i : i + 1], rotations[:, i]])  # ours first
        parts = contributions(w.expand(len(vectors), -1), vectors)
        unit = vectors / vectors.norm(dim=-1, keepdim=True)
        taken = {"subtract": parts, "project": unit * (unit @ w).unsqueeze(-1)}
        after = {}
        for mode, part in taken.items():
            a = neurons.edited(i, x, {kind: w - part.flatten(0, 1)}).abs()
            after[mode] = a.unflatten(1, part.shape[:2])  # (n_top, n_sets, n_channels)
        z, _ = signed_z(channels, i)
        for name, rule in RULES.items():
            n = n_top[rule.top_share]
            threshold = channels.settings.threshold if rule.threshold is None else rule.threshold
            member = z[:, neurons.tokens(other=rule.other_token)[top[:n]]] > threshold
            scored = _scores(after[rule.mode][:n], before[:n], member, rule)
            channel_rows += [{"neuron": neuron, "rule": name} | row for row in scored]
        without = neurons.edited(i, x, {kind: w - parts.sum(1)}).abs()
        for share, n in n_top.items():
            removed = 1 - without[:n].sum(0) / before[:n].sum()
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
    n_own, n_other = own.sum(1).int(), other.sum(1).int()
    skipped = torch.minimum(n_own, n_other) < rule.least
    scores = {"d_own": d_own[0], "d_other": d_other[0], "faithfulness": f[0]}
    scores |= {"rotation": f[1:].mean(0), "passes": (f[0] > f[1:].quantile(rule.quantile, 0)).to(f)}
    counts = {"channel": torch.arange(len(own)), "n_own": n_own, "n_other": n_other}
    columns = counts | {"skipped": skipped}
    columns |= {name: values.masked_fill(skipped, torch.nan) for name, values in scores.items()}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclass(frozen=True)
class Snippet:
    """Some tokens in a row, and a neuron's activation at each."""

    title: str
    """Of the document."""
    words: tuple[str, ...]
    """Tokens with their leading spaces, other white space made visible."""
    before: tuple[float, ...]
    after: tuple[float, ...]
    """Without the channel ("subtract")."""
    own: tuple[bool, ...]
    """Whether the token read there is in the channel's tail."""
    left: float
    """Share of |a| on the channel's tokens that is left without it."""


def snippet(
    neuron: ReadingNeurons, channels: Channels, channel: int, *, length: int = 60
) -> Snippet:
    """The text where a neuron is most active on one channel's tokens.

    Args:
        neuron: the one, on a text.
        channels: its own, of gate or in.
        channel: which one is taken out.
        length: tokens to show, of the window where |a| on the channel's tokens sums to most.
    """
    assert channels.kind is not None
    w, windows = channels.weight_vectors, neuron.windows
    edited = w - contributions(w, channels.vectors)[:, channel]
    before, after = neuron.activation(), neuron.edited(0, neuron.x, {channels.kind: edited})
    before, after = (a.view(len(windows), -1) for a in (before, after))
    own = signed_z(channels, 0)[0][channel, neuron.tokens()].view(before.shape)
    own = own > channels.settings.threshold
    strength = (before.abs() * own).unfold(1, min(length, before.shape[1]), 1).sum(2)
    window, start = divmod(int(strength.argmax()), strength.shape[1])
    piece = slice(start, start + length)
    before, after, own = (values[window, piece] for values in (before, after, own))
    strings = [channels.vocabulary.tokens[i] for i in windows.tokens[window, 1:-1][piece].tolist()]
    return Snippet(
        title=windows.titles[int(windows.document[window])],
        words=tuple(" " * s.startswith(" ") + visible(s.removeprefix(" ")) for s in strings),
        before=tuple(before.tolist()),
        after=tuple(after.tolist()),
        own=tuple(own.tolist()),
        left=(after[own].abs().sum() / before[own].abs().sum().clamp_min(1e-9)).item(),
    )
