"""What a page tells of itself where its link is shown: title, description and picture (Open Graph).

A picture needs a whole address. The book's is in BOOK_URL, which the workflow that publishes a
version sets; a book that was built without it names the picture from the page.
"""

from __future__ import annotations

import html
import os
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PICTURE = "preview.png"
ALT = "A neuron's projection onto the vocabulary, before and after its vector is turned"
LONGEST = 200
"""Characters of a description."""


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the tags to a page's head; the first page is not named twice in its title."""
    if doctree is None:
        return
    if page == app.config.root_doc:
        context["docstitle"] = ""
    base = os.environ.get("BOOK_URL", "").rstrip("/")
    picture = f"{base}/{PICTURE}" if base else context["pathto"](PICTURE, resource=True)
    text = next((p.astext() for p in doctree.findall(nodes.paragraph) if _is_prose(p)), "")
    tags = {
        "og:site_name": app.config.html_title,
        "og:type": "article",
        "og:title": nodes.unescape(context.get("title", "")),
        "og:description": _short(text),
        "og:image": picture,
        "og:image:alt": ALT,
    }
    if base:
        tags["og:url"] = f"{base}/{app.builder.get_target_uri(page)}"
    lines = [f'<meta property="{k}" content="{html.escape(v)}" />' for k, v in tags.items()]
    lines.append(f'<meta name="description" content="{html.escape(_short(text))}" />')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def _is_prose(paragraph: nodes.paragraph) -> bool:
    """The line of links below a chapter's title is none."""
    return "try-it" not in paragraph["classes"]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
