"""Seconds that a reader's browser takes: to the first channel, and for a slider's answers.

    python benchmarks/browser.py

Wants Chromium and a built book: `make book`, or `make book PROFILE=quick`. The book comes from this
machine, so that no download is in it. Writes benchmarks/browser.json.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from measured import keep

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browsers import FLAGS, chromium, served_book
from playwright.sync_api import Page, sync_playwright

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = "executed/12_explorer.html"
N_CHANNELS = (3, 5, 10)
REPEATS = 7
"""Settings that the slider of lambda_kurtosis comes to, from 0.15 on."""
WATCH = """selector => {
    const begun = performance.now();
    const explorer = document.querySelector(".rotate-explorer");
    window.answer = new Promise((resolve) => {
        const seen = () => explorer.querySelector(selector)?.textContent.match(/channel/);
        new MutationObserver((_, observer) => {
            if (!seen()) return;
            observer.disconnect();
            resolve((performance.now() - begun) / 1000);
        }).observe(explorer, { childList: true, subtree: true, characterData: true });
    });
}"""
"""Seconds until a part of the explorer speaks of a channel."""
MOVE = """([name, value]) => {
    const slider = document.querySelector(`input[name=${name}]`);
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
}"""


def main() -> None:
    with served_book() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address + PAGE)
        page.wait_for_selector(".rotate-card")
        page.evaluate(WATCH, ".rotate-match")
        page.get_by_role("button", name="Rotate it yourself").click()
        first = page.evaluate("answer")
        figures: dict[str, Any] = {"first_channel": first, "browser": browser.version}
        for n in N_CHANNELS:
            page.get_by_role("button", name="Next neuron").click()  # nothing of it is known yet
            answer(page, "n_channels", str(n))
            answer(page, "lambda_kurtosis", "0.1")
            seconds = [
                answer(page, "lambda_kurtosis", f"{0.1 + 0.05 * step:.2f}")
                for step in range(1, 1 + REPEATS)
            ]
            figures[f"{n} channels"] = {
                "median": statistics.median(seconds),
                "longest": max(seconds),
            }
        browser.close()
    keep(OUTPUT, "explorer", figures)


def answer(page: Page, slider: str, value: str) -> float:
    """Seconds from a slider's move to the last channel."""
    page.evaluate("document.querySelector('.rotate-status').textContent = ''")
    page.evaluate(WATCH, ".rotate-status")
    page.evaluate(MOVE, [slider, value])
    return page.evaluate("answer")


if __name__ == "__main__":
    main()
