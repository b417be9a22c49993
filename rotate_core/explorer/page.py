"""The explorer in a page without Jupyter: one script, or one page, that needs nothing else.

A page that was opened as a file may not load modules or data from other files, so the script
carries the explorer's code, its style and what it shows.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from rotate_core.storage import write_whole

STATIC = Path(__file__).parent / "static"

LOADER = """\
(() => {
  const { code, style, content } = %s;
  const root = document.createElement("div");
  const sheet = document.createElement("style");
  sheet.textContent = style;
  document.currentScript.before(sheet, root);
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  import(url).then(({ mount }) => mount(root, content)).finally(() => URL.revokeObjectURL(url));
})();
"""


def page_script(content: dict[str, Any]) -> str:
    """JavaScript that puts an explorer in front of its own script element.

    Args:
        content: as :attr:`Explorer.content` has it.

    Returns:
        Plain ASCII that may stand in a ``<script>`` element: no ``<`` is left in it.
    """
    parts = {
        "code": (STATIC / "explorer.js").read_text(encoding="utf-8"),
        "style": (STATIC / "explorer.css").read_text(encoding="utf-8"),
        "content": content,
    }
    return LOADER % json.dumps(parts, allow_nan=False).replace("<", "\\u003c")


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<body style="max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font-family: sans-serif">
<h1 style="font-size: 1.3rem">{title}</h1>
<script>{script}</script>
</body>
</html>
"""


def write_page(content: dict[str, Any], path: str | Path, *, title: str) -> None:
    """Write one HTML file that shows an explorer, from a disk as well as from a server.

    Args:
        content: as :attr:`Explorer.content` has it.
        path: where to.
        title: of the page, as plain text.
    """
    page = PAGE.format(title=html.escape(title), script=page_script(content))
    write_whole(Path(path), page.encode())
