"""A chapter's page: what came out first, the code at the end; terms explained where they stand.

A notebook computes before it shows. So on the page every code cell's source moves into one folded
section at the end, in order, under the headings that it stood under; outputs stay. The source of a
cell tagged ``call``, the one call that a reader would type, also stands at the end of the opening.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

OPEN = '<details class="chapter-code"><summary>Show the code of this chapter</summary>'
CLOSE = "</details>"


def code_last(app: Sphinx, doctree: nodes.document) -> None:
    """Move the source of the code cells to the end of a chapter."""
    if not app.env.docname.startswith("executed/"):
        return
    chapter = next(doctree.findall(nodes.section))
    moved: list[nodes.Node] = [nodes.raw("", OPEN, format="html")]
    heading = None
    for cell in list(doctree.findall(nodes.container)):
        if cell.get("nb_element") != "cell_code":
            continue
        for source in [n for n in cell if n.get("nb_element") == "cell_code_source"]:
            cell.remove(source)
            section = cell.parent.next_node(nodes.title) or nodes.title()
            if section.astext() != heading:
                heading = section.astext()
                moved.append(nodes.rubric("", heading))
            moved.append(nodes.container("", source, classes=["cell"]))
            if "tag_call" in cell["classes"]:
                behind = next((n for n in chapter if isinstance(n, nodes.section)), None)
                place = len(chapter) if behind is None else chapter.index(behind)
                chapter.insert(place, moved[-1].deepcopy())
        if not len(cell):
            cell.parent.remove(cell)
    moved.append(nodes.raw("", CLOSE, format="html"))
    if len(moved) > 2:
        title = nodes.title("", "The code")
        chapter += nodes.section("", title, *moved, ids=["the-code"], names=["the code"])


def explain_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give each reference to the glossary the term's definition as its title, seen on hover."""
    definitions: dict[str, str] = {}
    for where in {name for _, name in _terms(app).values()}:
        for item in app.env.get_doctree(where).findall(nodes.definition_list_item):
            meaning = " ".join(item.next_node(nodes.definition).astext().split())
            for term in item.findall(nodes.term):
                definitions |= dict.fromkeys(term["ids"], meaning)
    for reference in doctree.findall(nodes.reference):
        _, _, anchor = reference.get("refuri", "").partition("#")
        anchor = anchor or reference.get("refid", "")
        if anchor in definitions:
            reference["reftitle"] = definitions[anchor]
            reference["classes"].append("term")


def _terms(app: Sphinx) -> dict[str, tuple[str, str]]:
    """(written as, page) of each term, by its lower case."""
    return {
        name: (name, docname)
        for (kind, name), (docname, _) in app.env.get_domain("std").objects.items()
        if kind == "term"
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", code_last)
    app.connect("doctree-resolved", explain_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
