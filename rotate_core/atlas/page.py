"""The page that looks into an atlas: one HTML file that reads tables by ranges, and no server.

Opened from a disk, it asks the reader for the atlas's folder. On a server that sends ranges it
looks into its own folder, or into the one that ``?atlas=ADDRESS`` names. Built of ``web/atlas/``.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from rotate_core.storage import write_whole

NAME = "atlas.html"
"""Of the page, beside an atlas."""
ADDRESS = 'data-atlas=""'


def page(address: str = "./") -> bytes:
    """The page.

    Args:
        address: of the atlas that it opens: a folder's, from where the page is, or a hub's
            "organisation/name".
    """
    text = (Path(__file__).parent / NAME).read_text(encoding="utf-8")
    return text.replace(ADDRESS, f'data-atlas="{escape(address)}"', 1).encode()


def write_page(path: Path, address: str = "./") -> None:
    """Write :func:`page` to a file."""
    write_whole(path, page(address))
