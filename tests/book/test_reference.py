"""The reference has all of the public face, and what a page of recipes writes can be read back."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import rotate_core

BOOK = Path(__file__).parents[2] / "book"
API = (BOOK / "api.md").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"^\.\. auto\w+:: (\S+)$", API, re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    assert {f"rotate_core.{name}" for name in rotate_core.__all__} <= set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_reference_names_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(import_module(module), attribute).__doc__


@pytest.mark.real_model
def test_vectors_go_out_as_files_and_come_back(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = (BOOK / "recipes.md").read_text(encoding="utf-8")
    written, read, *_ = re.findall(r"```python\n(.*?)```", recipes, re.DOTALL)
    names: dict[str, object] = {}
    exec(written + read, names)
    assert names["W"].shape == (6, 576)
    assert len(Path("channels.csv").read_text(encoding="utf-8").splitlines()) == 7
    assert names["again"].n_neurons == 6
