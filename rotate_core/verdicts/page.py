"""What a chapter shows as HTML: tables that fold, and neurons whose card opens where they stand.

Plain HTML without a script, so that it reads the same in Jupyter, on Colab and in the book.
"""

from __future__ import annotations

import base64
import html
import math
from typing import TYPE_CHECKING

from rotate_core.channels import Channels
from rotate_core.models.tokens import visible
from rotate_core.verdicts.intervals import Estimate

if TYPE_CHECKING:
    import pandas as pd

SHORT = 6
"""Rows that a table may have to be shown whole; a longer one is a figure's numbers, and folded."""
ON_CARD = 3
"""Channels on a neuron's card."""


def table_html(table: pd.DataFrame, name: str, *, folded: bool = False) -> str:
    """A table and a link that keeps it as CSV; folded where a figure shows it, or it is long.

    Args:
        table: an `Estimate` in a cell is written with its interval; its CSV has three columns.
        name: of the file, NN_what, without its ending.
        folded: also up to six rows, as a figure's numbers are.
    """
    shown = table.to_html(
        index=False, escape=True, border=0, na_rep="n/a", float_format="{:.2f}".format
    )
    csv = base64.b64encode(plain_columns(table).to_csv(index=False).encode()).decode()
    link = f'<a class="csv" download="{name}.csv" href="data:text/csv;base64,{csv}">CSV</a>'
    if len(table) <= SHORT and not folded:
        return f'<div class="numbers">{shown}{link}</div>'
    what = name.partition("_")[2].replace("_", " ")
    rows = "1 row" if len(table) == 1 else f"{len(table)} rows"
    summary = f"<summary>Numbers: {html.escape(what)} ({rows})</summary>"
    return f'<details class="numbers">{summary}{shown}{link}</details>'


def plain_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A table with each `Estimate` as columns of its own: the value, low and high.

    NaN, where a row of such a column has none.
    """
    import pandas as pd

    columns = {}
    for name, column in table.items():
        if any(isinstance(x, Estimate) for x in column):
            for end, field in (("", "value"), (", low", "low"), (", high", "high")):
                columns[f"{name}{end}"] = [getattr(x, field, math.nan) for x in column]
        else:
            columns[f"{name}"] = list(column)
    return pd.DataFrame(columns)


def neuron_html(channels: Channels, row: int = 0) -> str:
    """A neuron's name as a chip: its card opens under the pointer or the focus.

    The card has its first channels: tokens, kurtosis, cosine with the neuron, and q where it is
    known. In the book the chip leads to the explorer.

    Args:
        channels: with their layer and kind.
        row: the neuron's, not its number.
    """
    layer, kind, neuron = channels.layer, channels.kind, channels.indices[row]
    lines = []
    for k in range(min(ON_CARD, channels.n_channels)):
        tokens = " ".join(visible(token) for token, _ in channels.top_tokens(row, k, 6))
        facts = [
            f"kurtosis {channels.kurtosis[row, k]:.1f}",
            f"cosine {channels.cosine[row, k]:.2f}",
        ]
        if channels.q_value is not None:
            facts.append(f"q {channels.q_value[row, k]:.2g}")
        lines.append(f"<b>{k}</b> {_entities(tokens)}<i>{', '.join(facts)}</i>")
    card = "".join(f"<span>{line}</span>" for line in lines)
    address = f"#layer={layer}&amp;kind={kind}&amp;neuron={neuron}"
    return (
        f'<a class="neuron-chip" tabindex="0" data-explorer="{address}">'
        f'L{layer} · {kind} · {neuron}<span class="neuron-card" role="tooltip">{card}</span></a>'
    )


def _entities(text: str) -> str:
    """Text that neither HTML nor Markdown reads anything into."""
    return "".join(html.escape(c) if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
