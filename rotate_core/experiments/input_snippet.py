"""A piece of text as a neuron reads it, with and without one of its channels."""

from __future__ import annotations

from dataclasses import dataclass

from rotate_core.channels import Channels
from rotate_core.experiments.input_ablation import Side, before_and_after
from rotate_core.models.tokens import visible
from rotate_core.null.tails import signed_z
from rotate_core.text.corpus import Windows


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
    """Whether the token read there (the current or the next one) is in the channel's tail."""


def snippet(
    side: Side,
    channels: Channels,
    kind: str,
    row: int,
    channel: int,
    windows: Windows,
    *,
    reading: str,
    length: int = 60,
) -> Snippet:
    """The text where a neuron is most active on one channel's tokens.

    Args:
        side: the neurons of ``channels`` on the counted positions of ``windows``.
        channels: of one kind of these neurons.
        kind: "gate" or "in".
        row: of the neuron in ``channels``.
        channel: which one is taken out.
        windows: of text.
        reading: "current" or "next": which token has to be the channel's.
        length: tokens to show, of the window where |a| on the channel's tokens sums to most.
    """
    before, after = before_and_after(side, channels, kind, row, channel)
    own = signed_z(channels, row)[channel, side.tokens[reading]] > channels.settings.threshold
    inside = windows.tokens[:, 1:-1]
    before, after, own = (values.reshape(inside.shape) for values in (before, after, own))
    strength = (before.abs() * own).unfold(1, min(length, inside.shape[1]), 1).sum(2)
    window, start = divmod(int(strength.argmax()), strength.shape[1])
    piece = slice(start, start + length)
    strings = [channels.vocabulary.tokens[i] for i in inside[window, piece].tolist()]
    return Snippet(
        title=windows.titles[int(windows.document[window])],
        words=tuple(_shown(string) for string in strings),
        before=tuple(before[window, piece].tolist()),
        after=tuple(after[window, piece].tolist()),
        own=tuple(own[window, piece].tolist()),
    )


def _shown(token: str) -> str:
    return " " * token.startswith(" ") + visible(token.removeprefix(" "))
