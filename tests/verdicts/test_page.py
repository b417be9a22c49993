"""What a chapter shows as HTML: folded tables with their CSV, and a neuron's card."""

from __future__ import annotations

import base64
import html
import re
import warnings

import pandas as pd
import pytest
import torch

from rotate_core import ConvergenceWarning, Vocabulary, decompose
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.page import neuron_html, plain_columns, table_html

TABLE = pd.DataFrame({"layer": [0, 1], "share": [Estimate(0.5, 0.25, 0.75, 4, 4)] * 2})


def test_a_short_table_is_whole_and_a_long_or_drawn_one_is_folded() -> None:
    assert "<details" not in table_html(TABLE, "01_shares")
    assert "shares (2 rows)" in table_html(TABLE, "01_shares", folded=True)
    assert "shares (1 row)" in table_html(TABLE[:1], "01_shares", folded=True)
    assert "<details" in table_html(pd.concat([TABLE] * 4), "01_shares")


def test_the_csv_has_the_ends_of_each_interval() -> None:
    shown = table_html(TABLE, "01_shares")
    assert 'download="01_shares.csv"' in shown
    csv = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1]).decode()
    assert csv.splitlines()[:2] == ['layer,share,"share, low","share, high"', "0,0.5,0.25,0.75"]


def test_a_row_without_an_estimate_has_empty_fields() -> None:
    table = TABLE.assign(share=[float("nan"), TABLE.share[1]])
    assert plain_columns(table)["share, low"].fillna(-1).tolist() == [-1, 0.25]


@pytest.mark.parametrize("token", ["*", "<b>", "`", "_a_", "$x$", "{ref}"])
def test_a_card_shows_a_token_as_it_is_written(token: str) -> None:
    generator = torch.Generator().manual_seed(0)
    u, w = torch.randn(8, 64, generator=generator), torch.randn(1, 8, generator=generator)
    vocabulary = Vocabulary(u, tokens=[token] * 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        card = neuron_html(decompose(w, vocabulary, n_channels=1, progress=False))
    text = re.sub(r"<[^>]+>", "", card)
    assert html.unescape(text).count(token) >= 6
    assert token not in text
