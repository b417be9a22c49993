"""The explorer in a page without Jupyter: one script that needs nothing else, not even a server.

A page that was opened as a file may not load modules or data from other files, so the script
carries the explorer's code, its style and what it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
