"""Chromium for the tests of pages: the one that CHROMIUM names, or the first that is installed."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HTML = Path(__file__).parents[1] / "book/_build/html"
AXE = Path(__file__).parents[1] / "web/node_modules/axe-core/axe.min.js"
CANDIDATES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def chromium() -> str:
    """Where the browser is."""
    names = [os.environ.get("CHROMIUM", ""), *CANDIDATES]
    path = next((path for name in names if name and (path := shutil.which(name))), None)
    assert path, f"no browser: install one of {', '.join(CANDIDATES)} or set CHROMIUM"
    return path


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served_book() -> Iterator[str]:
    """The address of the built book."""
    handler = functools.partial(QuietHandler, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
