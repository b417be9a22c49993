"""What the first page is made of: parameters as they ran, three numbers, links and previews."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from book import front
from rotate_core.explorer.turn import N_FRAMES

sys.path.insert(0, str(Path(front.__file__).parent / "_ext"))

import preview
import try_it


def notebook(folder: Path, name: str, parameters: str) -> None:
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{name}.ipynb")


def test_parameters_are_those_of_the_first_chapter_with_an_atlas(tmp_path):
    notebook(tmp_path, "01_one", 'model = "toy"  # the model')
    with pytest.raises(FileNotFoundError, match="no chapter with an atlas"):
        front.parameters(tmp_path)
    notebook(tmp_path, "03_many", 'model = "toy"  # it\natlas_null = 3  # of them')
    assert front.parameters(tmp_path) == {"model": "toy", "atlas_null": 3}


def test_three_numbers_count_what_there_is():
    table = pd.DataFrame({"channel": [0, 0, 1], "q_value": [0.05, float("nan"), 0.01]})
    summary = pd.DataFrame({"kurtosis": [1.0, 3.0], "null_kurtosis": [2.0, 2.0]})
    verdicts = Counter({"reproduced": 2, "proxy": 1, "not run": 4})
    text = front.three_numbers(table, summary, verdicts)
    assert [part.split("</strong>")[0] for part in text.split("<strong>")[1:]] == [
        "1 of 2", "1 of 2", "2 of 3",
    ]  # fmt: skip


def test_data_cannot_end_the_script_that_holds_it():
    one = {"neuron": {"tokens": [["</script>", [0.0] * N_FRAMES]]}}
    page = front.turn([one], 40)
    assert page.count("</script>") == 1
    assert "&lt;/script&gt;" in page, "the name of a choice is escaped"


def test_the_script_of_the_turn_is_short():
    assert len(front.read("turn.js").splitlines()) < 200


def test_a_link_from_a_notebook_to_another_leads_to_its_page():
    from docutils import nodes

    text = '<a href="08_input_ablation.ipynb">8</a> <a href="other.ipynb">no chapter</a>'
    document = nodes.section("", nodes.raw("", text, format="html"))
    try_it.lead_to_pages(document)
    assert document.children[0].astext() == text.replace(
        "08_input_ablation.ipynb", "08_input_ablation.html"
    )


@pytest.mark.parametrize(
    ("base", "picture"),
    [("", "../preview.png"), ("https://a.b/c/v1/", "https://a.b/c/v1/preview.png")],
)
def test_a_page_tells_what_it_is(base, picture, monkeypatch):
    from docutils import nodes

    monkeypatch.setenv("BOOK_URL", base)
    words = nodes.paragraph("", "", nodes.Text('A "claim" ' + "and more of it " * 30))
    links = nodes.paragraph("", "", nodes.Text("notebooks/x.ipynb"), classes=["try-it"])
    app = SimpleNamespace(
        config=SimpleNamespace(root_doc="intro", html_title="A book"),
        builder=SimpleNamespace(get_target_uri=lambda page: f"{page}.html"),
    )
    context = {"title": "One", "docstitle": "A book", "pathto": lambda *_, **__: "../preview.png"}
    preview.describe(app, "executed/x", "", context, nodes.section("", links, words))
    tags = context["metatags"]
    assert f'<meta property="og:image" content="{picture}" />' in tags
    assert 'content="A &quot;claim&quot; and' in tags
    assert max(map(len, tags.splitlines())) < preview.LONGEST + 80
    assert ("og:url" in tags) == bool(base)
    assert context["docstitle"] == "A book"
    preview.describe(app, "intro", "", context, nodes.section("", words))
    assert context["docstitle"] == "", "the first page is not named twice"
