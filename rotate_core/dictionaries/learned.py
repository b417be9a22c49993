"""What every fit knows of itself: where its activations are from, and where it is strongest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Int
from torch import Tensor

from rotate_core.channels import Shown
from rotate_core.dictionaries.folder import write
from rotate_core.models.tokens import visible
from rotate_core.text.labelled import Context

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Learned(Shown):
    """What :class:`.Regions` and :class:`.Factors` have in common: n parts of a layer."""

    n_outliers: int
    """Tokens left out for their norm; see the settings."""
    n_iter: int
    converged: bool
    seed: int
    model: str | None = None
    layer: int | None = None
    site: str | None = None
    history: tuple[float, ...] | None = None
    """What is fitted, after every pass, if asked for."""
    top_rows: Int[Tensor, "n n_top"] | None = None
    """Rows of the activations where each part is strongest; -1 where there are no more."""
    contexts: tuple[tuple[Context, ...], ...] | None = None
    """Each of ``top_rows`` in its text, where the activations know it."""

    _column_width: ClassVar[int] = 80
    what: ClassVar[str]
    """What its parts are called, and its file."""

    def write(self, folder: str | Path) -> Path:
        """Write manifest.json and the arrays, each whole or not at all.

        Raises:
            FileExistsError: there is one of these in the folder.
        """
        write(Path(folder), self, self.what)
        return Path(folder)

    def top_positions(self, part: int, k: int = 20) -> pd.DataFrame:
        """The k tokens of the fit where a part is strongest: row, and the text around.

        Raises:
            IndexError: there is no such part.
            ValueError: they are not known, as of a checkpoint of the authors'.
        """
        import pandas as pd

        check_number(part, self.n_parts, "part")
        if self.top_rows is None:
            raise ValueError(f"these {self.what} do not know the tokens that they were fitted to")
        rows = [row for row in self.top_rows[part].tolist() if row >= 0][:k]
        frame = pd.DataFrame({"row": rows})
        if self.contexts is not None:
            contexts = pd.DataFrame(self.contexts[part][: len(rows)], columns=Context._fields)
            frame = frame.join(contexts)
        return frame

    def top_tokens(self, k: int) -> list[list[str]] | None:
        """The first k different tokens of each part's top positions; None: they are not known."""
        if self.contexts is None:
            return None
        tokens = (dict.fromkeys(c.token for c in contexts) for contexts in self.contexts)
        return [list(part)[:k] for part in tokens]

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        raise NotImplementedError

    def table(self, k: int = 5) -> pd.DataFrame:
        """One row per part, the largest first; k tokens of its top positions, each once."""
        raise NotImplementedError

    def _origin(self) -> str:
        origin = f"{self.model}, layer {self.layer}, {self.site}: " if self.model else ""
        return visible(origin, keep=" ")

    def _display(self, most: int) -> pd.DataFrame:
        shown = self.table(k=8).head(most).round(3)
        if "top_tokens" in shown:
            lines = shown["top_tokens"].map(lambda row: " ".join(map(visible, row)))
            shown = shown.assign(top_tokens=lines)
        return shown


def check_number(number: int, n: int, what: str) -> None:
    """IndexError where there is no such number."""
    if not 0 <= number < n:
        raise IndexError(f"{what}={number}: there are {n}, counted from 0")
