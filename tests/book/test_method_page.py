"""The method page points into the code: what it names must be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (?P<equations>\{eq\}.*?) \| (?P<names>`.*`) \(`(?P<file>\w+/\w+\.py)`\) \|$")
PAGE = (ROOT / "book/method.md").read_text(encoding="utf-8")
ROWS = [match for line in PAGE.splitlines() if (match := ROW.match(line))]


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_names_in_the_table_are_defined_in_the_file(row: re.Match[str]):
    tree = ast.parse((ROOT / "rotate_core" / row["file"]).read_text(encoding="utf-8"))
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert set(re.findall(r"`(\w+)`", row["names"])) <= defined


def test_every_equation_is_labelled_and_the_table_knows_where_it_is_computed():
    labels = re.findall(r"^\$\$ \((eq-[\w-]+)\)$", PAGE, re.MULTILINE)
    assert PAGE.count("\n$$\n") == len(labels), "an equation has no label"
    in_table = set(re.findall(r"\{eq\}`(eq-[\w-]+)`", "\n".join(row["equations"] for row in ROWS)))
    only_explained = {"eq-neuron", "eq-loss", "eq-random-reconstruction"}
    assert in_table == set(labels) - only_explained
