"""Docstrings of attributes as they are written: napoleon takes what precedes a colon for a type."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

ATTRIBUTES = ("attribute", "data", "property")
_written: dict[str, list[str]] = {}


def keep(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the lines, before napoleon has them."""
    if what in ATTRIBUTES:
        _written[name] = list(lines)


def restore(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put them back, behind it."""
    if what in ATTRIBUTES:
        lines[:] = _written.pop(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, on both sides of napoleon, whose priority is 500."""
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
