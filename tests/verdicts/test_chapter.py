"""The chapter helper: parameters in, prose with figures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rotate_core.verdicts.chapter import Chapter

PARAMETERS = {"model": "toy", "layers": [0, 3], "run": "x", "seed": 0, "device": None}
SESSION = {"_": 1, "_i1": "x", "In": ["a"], "Out": {}, "pytest": pytest, "__name__": "__main__"}


def test_the_parameters_are_the_literals_of_the_notebook() -> None:
    chapter = Chapter("00_toy", {**SESSION, **PARAMETERS})
    assert chapter.parameters == {"layers": [0, 3], "seed": 0}
    assert chapter.atlas_folder.parts[-4:] == ("results", "toy", "x", "atlas")


def test_names_that_have_another_value_by_now_are_noticed() -> None:
    with pytest.raises(ValueError, match="run the parameters cell again"):
        Chapter("00_toy", {**PARAMETERS, "model": object()})


def test_chapters_share_activations(make_checkpoint: Any, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name in "abcdef":
        (text / f"{name}.txt").write_text("The cat sat on the mat. " * 20)
    parameters = {"model": str(make_checkpoint("llama")), "text": str(text), "window": 16}
    results = tmp_path / "results"
    first, second = (
        Chapter(name, PARAMETERS | parameters, results=results).activations(
            [0, 2], "residual", split="test", n_tokens=64
        )
        for name in ("00_one", "01_other")
    )
    assert len(first[2]) == 4 * 14
    assert first[2].source == f"{text}, test"
    assert torch.equal(first[2].values, second[2].values)
    assert len(list(results.glob("*/x/activations/*"))) == 2


def test_prose_is_filled_in_and_roles_and_mathematics_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    chapter = Chapter("00_toy", PARAMETERS)
    chapter.say(
        r"""
        {n} of $w_{i} \\mathrm{act}(x)$, {share:.0%} ({numref}`fig-a`)
        ```{warning}
        None.
        ```
        """.replace("        ", ""),
        n=3,
        share=0.251,
    )
    (markdown,) = shown
    assert markdown.data.splitlines() == [
        r"3 of $w_{i} \\mathrm{act}(x)$, 25% ({numref}`fig-a`)", "```{warning}", "None.", "```",
    ]  # fmt: skip
    with pytest.raises(KeyError, match="unknown"):
        chapter.say("{unknown}")
    with pytest.raises(ValueError, match=r"\{n\} stands at the end of a word"):
        chapter.say("word{n}", n=3)
    with pytest.raises(ValueError, match=r"\{n\} stands at the end of a word"):
        chapter.say("word{n:.1f}", n=3)


def test_what_is_glued_is_what_the_book_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from myst_nb.ext.glue import glue

    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    monkeypatch.setattr("myst_nb.ext.glue.ipy_display", lambda *a, **k: shown.append((a, k)))
    Chapter("00_toy", PARAMETERS).glue(share="25%")
    glue("share", "25%", display=False)
    ours, theirs = shown
    assert ours == theirs


def test_a_text_is_cut_into_windows_once(make_checkpoint: Any, tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.txt").write_text("The cat sat on the mat. " * 20)
    parameters = {"model": str(make_checkpoint("llama")), "text": str(tmp_path), "window": 16}
    chapter = Chapter("00_toy", PARAMETERS | parameters)
    every, few = chapter.windows("train"), chapter.windows("train", n_tokens=40)
    assert len(few) == 2
    assert torch.equal(few.tokens, every.tokens[:2])
    assert chapter.windows("train") is every
