"""``rotate demo`` and ``rotate page``: one neuron, for the terminal and for a browser."""

from __future__ import annotations

import os
import sys

from typer.testing import CliRunner

from rotate_core.cli import app


def rotate(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.output


def test_a_neuron_is_taken_apart_in_the_terminal(checkpoints) -> None:
    code, said = rotate("demo", checkpoints("llama"), "1/out/5", "--channels", 2)
    assert code == 0, said
    assert "Neuron 5 of tiny-llama, layer 1, out, as it is: excess kurtosis" in said
    assert "Any vector has such channels" in said
    assert said.count("±") + said.count("+") + said.count("-") >= 2


def test_a_page_of_a_neuron_is_one_file(checkpoints, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = rotate("page", checkpoints("llama"), "1/out/5", "0/gate/3", "--channels", 2)
    assert (code, said) == (0, "1-out-5.html\n")
    page = (tmp_path / "1-out-5.html").read_text(encoding="utf-8")
    assert "<title>tiny-llama: 1/out/5, 0/gate/3</title>" in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert 'src="' not in page, "it asks for nothing else"
    assert os.listdir() == ["1-out-5.html"]


def test_a_neuron_is_named_by_three_parts(checkpoints) -> None:
    code, said = rotate("demo", checkpoints("llama"), "1-out-5")
    assert code == 2
    assert "wanted LAYER/KIND/NUMBER, such as 29/out/880" in said


def test_what_the_widget_needs_is_named(checkpoints, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rotate_core.explorer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    code, said = rotate("page", checkpoints("llama"), "1/out/5")
    assert code == 1
    assert 'rotate page needs anywidget: pip install "rotate-core[notebooks]"' in said
