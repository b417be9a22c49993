"""Activations with what they are of: each row knows its token, its context and its document."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.models.tokens import visible
from rotate_core.text.corpus import Windows


class Context(NamedTuple):
    """A token in its text."""

    left: str
    token: str
    right: str
    title: str
    """Of the document."""


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Activations at one site of one layer; a row is a token of a text."""

    values: Float[Tensor, "n_tokens width"]
    """float32, on the CPU; neither centred nor scaled."""
    window: Int[Tensor, " n_tokens"]
    """Which of the windows each token is in ..."""
    place: Int[Tensor, " n_tokens"]
    """... and where: never the first position or the last (see :meth:`Windows.counted`)."""
    windows: Windows
    """The text."""
    model: str
    layer: int
    site: str
    """One of :data:`.SITES`."""

    @property
    def token_ids(self) -> Int[Tensor, " n_tokens"]:
        """The token of each row."""
        return self.windows.tokens[self.window, self.place]

    @property
    def document(self) -> Int[Tensor, " n_tokens"]:
        """Which document each row is from; an index into ``windows.titles``."""
        return self.windows.document[self.window]

    @property
    def source(self) -> str:
        """What the text is called."""
        return self.windows.source

    def context(self, row: int, n: int = 10) -> Context:
        """The token of a row with n tokens on its left and its right, as far as its window goes."""
        at, window = int(self.place[row]), int(self.window[row])
        words = [self.windows.strings[i] for i in self.windows.tokens[window].tolist()]
        left, right = "".join(words[max(0, at - n) : at]), "".join(words[at + 1 : at + 1 + n])
        return Context(left, words[at], right, self.windows.titles[self.windows.document[window]])

    def contexts(self, rows: Int[Tensor, "n n_top"]) -> tuple[tuple[Context, ...], ...]:
        """:meth:`context` of each row of a table; what is below 0 is left out."""
        return tuple(tuple(self.context(i) for i in row if i >= 0) for row in rows.tolist())

    def take(self, rows: Int[Tensor, " n"] | Bool[Tensor, " n_tokens"]) -> Activations:
        """Some of the rows, by number or by mask."""
        kept = {name: getattr(self, name)[rows] for name in ("values", "window", "place")}
        return dataclasses.replace(self, **kept)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        n, width = self.values.shape
        text = f", {self.source}" if self.source else ""
        return visible(
            f"Activations({n:,} tokens of {len(self.document.unique())} documents x {width}; "
            f"{self.model}, layer {self.layer}, {self.site}{text})",
            keep=" ",
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"
