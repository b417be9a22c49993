"""The page that looks into an atlas: one HTML file, that reads its tables by ranges.

It is built of ``web/atlas/``. On a disk, the reader chooses the atlas's folder; from a server that
sends ranges, it looks into the folder that it is in, or into the one of ``?atlas=ADDRESS``.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from rotate_core.storage import write_whole

NAME = "atlas.html"
"""Of the page, beside an atlas."""
ADDRESS = 'data-atlas=""'


def page(address: str = "") -> bytes:
    """The page.

    Args:
        address: of the atlas that it opens first, as ``?atlas=`` has it: a folder's on a server, or
            a hub's "organisation/name". None: of its own folder.
    """
    text = (Path(__file__).parent / NAME).read_text(encoding="utf-8")
    return text.replace(ADDRESS, f'data-atlas="{escape(address)}"', 1).encode()


def write_page(path: Path, address: str = "") -> None:
    """Write :func:`page` to a file."""
    write_whole(path, page(address))
