"""A line under each chapter's title: its notebook, where to run it, and what to take away.

Binder and Colab need a public repository, which is read from the clone's own remote: a fork's book
links to the fork, and a clone from anywhere else than GitHub has no such links. They are plain
links: no page loads anything from them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

GITHUB = re.compile(r"github\.com[:/](?P<repository>[^/]+/[^/]+?)(\.git)?/?$")
NOTEBOOK = re.compile(r'href="(\d\d_\w+)\.ipynb"')


def github_repository(folder: Path) -> str | None:
    """``owner/name`` of the clone's origin, None where that is not on GitHub."""
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    try:
        url = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    match = GITHUB.search(url)
    return match["repository"] if match else None


def add_links(app: Sphinx, doctree: nodes.document) -> None:
    """Insert the line below the title of a chapter."""
    folder, _, name = app.env.docname.rpartition("/")
    if folder != "executed":
        return
    path = f"notebooks/{name}.ipynb"
    line = nodes.paragraph("", "", nodes.literal("", path), classes=["try-it"])
    if app.config.github_repository:
        base = f"github/{app.config.github_repository}/blob/HEAD/{path}"
        binder = f"https://mybinder.org/v2/gh/{app.config.github_repository}/HEAD?labpath={path}"
        for label, url in [
            ("Source", f"https://github.com/{base.removeprefix('github/')}"),
            ("Binder", binder),
            ("Colab", f"https://colab.research.google.com/{base}"),
        ]:
            line += nodes.Text(" · ")
            line += nodes.reference("", label, refuri=url)
    there = Path(app.srcdir) / "_extra/downloads"
    for label, suffix in (
        ("As it ran", "ipynb"),
        ("Record", "json"),
        ("Tables and figures", "zip"),
    ):
        if (there / f"{name}.{suffix}").exists():
            line += nodes.Text(" · ")
            line += nodes.reference("", label, refuri=f"../downloads/{name}.{suffix}")
    lead_to_pages(doctree)
    title = next(iter(doctree.findall(nodes.title)))
    title.parent.insert(title.parent.index(title) + 1, line)


def lead_to_pages(doctree: nodes.document) -> None:
    """Links from a notebook's HTML to another notebook, as Jupyter has them, become its page's."""
    for raw in doctree.findall(nodes.raw):
        text = NOTEBOOK.sub(r'href="\1.html"', raw.astext())
        raw.rawsource, raw.children = text, [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_config_value("github_repository", github_repository(Path(app.srcdir)), "env")
    app.connect("doctree-read", add_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
