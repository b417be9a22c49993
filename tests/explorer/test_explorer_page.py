"""The explorer on the built book's page, in a real browser without Python and without a network.

Run by .ci/run after ``PROFILE=quick make book``; by hand: ``pytest -m book``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import AXE, FLAGS, HTML, chromium, served_book

from rotate_core import decompose, load_model
from rotate_core.explorer.pack import rounded

pytestmark = pytest.mark.book

CHAPTER = "executed/12_explorer.html"
ROTATE = "Rotate it yourself"
FINISHED = "document.querySelector('.rotate-status').textContent.includes('channels in')"
LISTEN = """() => {
    window.results = [];
    document.addEventListener("rotate:channels", ({ detail: { neuron, stored } }) => {
        const plain = (c) => ({ vector: Array.from(c.vector), top: c.top.map(([token]) => token) });
        const { layer, kind, index } = stored;
        window.results.push([[layer, kind, index], neuron.channels.map(plain)]);
    });
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served_book() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert (HTML / CHAPTER).is_file(), "no book: run `make book` first"
    with sync_playwright() as playwright:

        def launch(folder: Path, **options: Any) -> Any:
            return playwright.chromium.launch_persistent_context(
                folder, executable_path=chromium(), args=FLAGS, **options
            )

        yield launch


@pytest.fixture
def page(browser: Any, address: str, tmp_path: Path) -> Iterator[Any]:
    """The chapter, opened; at the end there must have been no error and no request elsewhere."""
    with browser(tmp_path / "profile", viewport={"width": 1280, "height": 900}) as context:
        tab = context.new_page()
        tab.errors, tab.requested = [], []
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("request", lambda request: tab.requested.append(request.url))
        tab.goto(address + CHAPTER)
        tab.wait_for_selector(".rotate-card")
        yield tab
        assert tab.errors == []
        local = (address, "blob:", "data:")
        assert [url for url in tab.requested if not url.startswith(local)] == []


def rotate(page: Any) -> None:
    page.get_by_role("button", name=ROTATE).click()
    page.wait_for_function(FINISHED, timeout=120_000)


def status(page: Any) -> str:
    return page.locator(".rotate-status").inner_text()


def channels(page: Any) -> list[str]:
    return page.locator(".rotate-tokens").all_inner_texts()


def test_the_page_is_light_and_ready_soon(page: Any):
    sizes = page.evaluate(
        """() => performance.getEntries()
            .filter((entry) => "encodedBodySize" in entry)
            .map((entry) => entry.encodedBodySize)"""
    )
    assert 100_000 < sum(sizes) < 5_000_000
    assert not any(url.split("?")[0].endswith(".bin") for url in page.requested)
    drawn = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert drawn < 5_000, "milliseconds until the page can be used"


def test_browsing_needs_no_python(page: Any):
    first = channels(page)
    page.get_by_role("button", name="Next neuron").click()
    assert channels(page) != first
    page.get_by_role("button", name="Previous neuron").click()
    assert channels(page) == first
    page.locator(".rotate-choose").nth(1).click()
    assert page.locator(".rotate-choose").nth(1).get_attribute("aria-pressed") == "true"
    page.get_by_label("Find a token").fill("speak")
    page.locator(".rotate-search button").first.click()
    assert page.locator(".rotate-results button").count() >= 1
    page.wait_for_timeout(1000)
    for label in ("solver", "Try the neuron on a text", "Layer"):
        assert not page.get_by_label(label, exact=True).is_visible(), "needs Python"


def test_a_link_restores_the_neuron(page: Any, address: str):
    page.locator("a[href='#layer=25&kind=out&neuron=460']").click()
    page.wait_for_function("location.hash.includes('460')")
    assert "460" in page.locator(".rotate-embedded option:checked").inner_text()
    before = channels(page)
    other = page.context.new_page()
    other.goto(address + CHAPTER + "#layer=25&kind=out&neuron=460&lambda_kurtosis=0.2")
    other.wait_for_selector(".rotate-card")
    assert channels(other) == before
    rotate(other)
    assert other.locator("input[name=lambda_kurtosis]").input_value() == "0.2"
    other.goto(address + CHAPTER + "#layer=1&kind=out&neuron=1")
    other.reload()
    other.wait_for_selector(".rotate-card")
    assert "not among the neurons of this page" in status(other)


def looks(page: Any) -> list[str]:
    """The look of each card: own, random or untested."""
    names = page.locator(".rotate-card.rotate-look").evaluate_all(
        "cards => cards.map((card) => card.className.match(/rotate-(own|random|untested)/)[1])"
    )
    return list(names)


def test_rotating_keeps_what_is_known_at_the_stored_settings_alone(page: Any):
    before = looks(page)
    rotate(page)
    again = page.locator(".rotate-match").all_inner_texts()
    assert again[0].startswith("stored channel 1")
    known = [text.startswith("stored") for text in again]
    assert "untested" not in [look for look, same in zip(looks(page), known, strict=True) if same]
    assert looks(page)[0] == before[0]
    slider = page.locator("input[name=lambda_kurtosis]")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function("!document.querySelector('.rotate-card:not(.rotate-untested)')")
    assert "stored settings" in page.locator(".rotate-legend").inner_text()


def test_the_histogram_moves_while_the_solver_climbs(page: Any):
    page.evaluate(
        """() => {
            window.seen = new Set();
            const figure = document.querySelector(".rotate-histogram");
            new MutationObserver(() => {
                if (figure.textContent.includes("turning"))
                    window.seen.add(figure.querySelector(".rotate-outline").getAttribute("d"));
            }).observe(figure, { childList: true });
        }"""
    )
    rotate(page)
    assert page.evaluate("window.seen.size") >= 3
    assert "turning" not in page.locator(".rotate-histogram").inner_text()


def test_focus_stays_where_a_button_goes(page: Any):
    rotate(page)
    assert page.evaluate("document.activeElement.name") == "lambda_kurtosis"


def test_a_link_says_what_it_cannot_and_scrolls_to_the_explorer(page: Any, address: str):
    other = page.context.new_page()
    other.goto(address + CHAPTER + "#layer=25&kind=out&neuron=460&channel=2&threshold=abc")
    other.wait_for_function("document.querySelector('.rotate-error')")
    assert "threshold=abc" in status(other)
    assert other.locator(".rotate-choose").nth(1).get_attribute("aria-pressed") == "true"
    assert other.evaluate("scrollY") > 0
    other.goto(address + CHAPTER + "#layer=25&kind=out&neuron=460&lambda_kurtosis=0.4")
    other.wait_for_function("document.querySelector('.rotate-error')")
    assert "load the vocabulary" in status(other)
    assert other.url.endswith("lambda_kurtosis=0.4")


def test_channels_agree_with_pythons(page: Any):
    """Over U as the page downloads it: first channels of 19 in 20 neurons, nearly all others.

    Where two hills are as high, the last bit decides, and what follows then is another channel,
    too. How many agree with those over U before it was rounded, the chapter says.
    """
    page.evaluate(LISTEN)
    rotate(page)
    for n in range(1, 20):
        page.get_by_role("button", name="Next neuron").click()
        slider = page.locator("input[name=threshold]")
        # Away from the default and back: a run with the default settings.
        slider.focus()
        slider.press("ArrowRight")
        slider.press("ArrowLeft")
        page.wait_for_function(f"window.results.length > {n}", timeout=120_000)
    results = page.evaluate("window.results")
    assert len(results) == 20

    model = load_model("smollm2-135m")
    vocabulary = rounded(model.vocabulary(model.n_layers - 1))
    found = {tuple(neuron): ours for neuron, ours in results}  # each once
    same = []
    for (layer, kind, index), ours in found.items():
        neuron, n_channels = model.neurons(layer, kind, [index]), len(ours)
        pythons = decompose(neuron, vocabulary, n_channels=n_channels, progress=False)
        vectors = torch.tensor([channel["vector"] for channel in ours])
        cosine = torch.cosine_similarity(vectors, pythons.vectors[0], dim=1)
        tops = zip(ours, pythons.top_ids[0], strict=True)
        common = [
            len(set(channel["top"]) & {vocabulary.tokens[i] for i in top.tolist()})
            for channel, top in tops
        ]
        same.append(((cosine > 0.99) & (torch.tensor(common) >= 45)).tolist())
    table = np.array(same)
    print(f"channels that agree, by position: {table.sum(0).tolist()} of {len(table)}")
    assert table[:, 0].mean() >= 0.95
    assert table.mean() >= 0.85


def test_a_slider_rotates_again_and_cancel_stops_it(page: Any):
    rotate(page)
    before = channels(page)
    slider = page.locator("input[name=lambda_kurtosis]")
    slider.focus()
    slider.press("End")
    page.get_by_role("button", name="Cancel").click(timeout=10_000)
    assert status(page) == "Cancelled."
    page.wait_for_timeout(500)
    assert status(page) == "Cancelled."
    slider.press("Home")
    page.wait_for_function(FINISHED, timeout=120_000)
    assert channels(page) != before
    page.get_by_role("button", name="Back to the stored channels").click()
    assert slider.input_value() == "0.3"


def test_a_second_visit_downloads_nothing(page: Any):
    rotate(page)
    assert sum(".bin?v=" in url for url in page.requested) == 1
    page.reload()
    page.wait_for_selector(".rotate-card")
    rotate(page)
    assert sum(".bin?v=" in url for url in page.requested) == 1


def test_a_download_that_fails_is_said_and_can_be_tried_again(page: Any):
    page.route("**/*.bin?*", lambda route: route.fulfill(body=b"ROTATEU1" + bytes(1000)))
    page.get_by_role("button", name=ROTATE).click()
    page.wait_for_selector(".rotate-error")
    assert "cut short" in status(page)
    page.unroute("**/*.bin?*")
    rotate(page)


def test_a_browser_without_workers_or_simd_computes_all_the_same(page: Any):
    page.add_init_script("delete window.Worker; delete window.WebAssembly;")
    page.reload()
    page.wait_for_selector(".rotate-card")
    rotate(page)
    assert "JavaScript, no worker" in status(page)


def test_what_is_seen_can_be_copied_as_python(page: Any):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as Python").click()
    text = page.evaluate("navigator.clipboard.readText()")
    assert len(text.splitlines()) == 5
    compile(text, "copied", "exec")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (390, "light")])
def test_is_accessible_and_fits(
    browser: Any,
    address: str,
    tmp_path: Path,
    width: int,
    scheme: str,
):
    if not AXE.is_file():
        pytest.skip("no axe-core: run `make js`")
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    with browser(tmp_path / "profile", **options) as context:
        tab = context.new_page()
        tab.goto(address + CHAPTER)
        tab.wait_for_selector(".rotate-card")
        rotate(tab)
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.locator(".rotate-explorer").get_attribute("data-theme") == scheme
        tab.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        report = tab.evaluate("axe.run('.rotate-explorer')")
        serious = [
            (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
            for violation in report["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []
