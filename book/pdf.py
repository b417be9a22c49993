"""The book as one PDF, printed by a Chromium from Sphinx's single page.

python -m book.pdf book/_build/single/_build/singlehtml/intro.html book/_build/rotate.pdf
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = "chromium", "chromium-browser", "google-chrome"
SETTLED = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
PATIENCE = 600_000
"""Milliseconds: a book is a long page."""


def print_page(page: Path, target: Path) -> None:
    """Print an HTML file as A4, with an outline of its headings.

    Raises:
        FileNotFoundError: there is no Chromium on this machine.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"printing wants one of {', '.join(BROWSERS)}: none is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.goto(page.absolute().as_uri())
        tab.evaluate(SETTLED)
        tab.pdf(
            path=target,
            format="A4",
            margin=dict.fromkeys(("top", "bottom", "left", "right"), "18mm"),
            print_background=True,
            outline=True,
            tagged=True,
        )
        chromium.close()


if __name__ == "__main__":
    print_page(*map(Path, sys.argv[1:]))
