"""The neuron explorer: one widget for the book, for JupyterLab and for Voila.

    from rotate_core import Explorer, load_model
    Explorer(load_model("smollm2-135m"), neurons=[(25, "out", 460)])

widget.py is what Jupyter shows, live.py is how Python answers it; static/explorer.js is all that a
browser runs, built from web/. pack.py writes U for a browser, book.py what the static book serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotate_core.explorer.widget import Explorer

__all__ = ["Explorer"]


def __getattr__(name: str) -> Any:
    if name == "Explorer":  # ipywidgets is imported only where a widget is wanted
        from rotate_core.explorer.widget import Explorer

        return Explorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
