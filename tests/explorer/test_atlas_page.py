"""The page of an atlas in a real browser: from a server that sends ranges, and from a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from atlas_builds import ONE_GROUP
from browsers import AXE, FLAGS, QuietHandler, RangeHandler, chromium, served

from rotate_core.atlas import Atlas
from rotate_core.atlas.page import NAME, write_page
from rotate_core.models.tokens import visible

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def atlas(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Of two layers, with a page beside it; a page holds 25 neurons, and a shard's end is 16 kB."""
    folder = tmp_path_factory.mktemp("served") / "atlas"
    built = Atlas.build(folder, model, **ONE_GROUP | {"layers": [0, 1], "neurons": 40})
    write_page(folder / NAME)
    return built


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chrome: Any) -> Iterator[Any]:
    """A page that counts the bytes of each file that come as parts."""
    with chrome.new_context() as context:
        tab = context.new_page()
        tab.parts, tab.errors = {}, []
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))

        def keep(response: Any) -> None:
            if response.status == 206:
                name = response.url.rpartition("/")[2]
                size = int(response.headers["content-length"])
                tab.parts[name] = tab.parts.get(name, 0) + size

        tab.on("response", keep)
        yield tab
        assert tab.errors == []


def status(tab: Any) -> str:
    return tab.locator(".rotate-status").inner_text()


def test_neurons_their_channels_and_their_q(tab: Any, atlas: Atlas) -> None:
    first = min(atlas.channels(layer=1, kind="out").indices)
    with served(atlas.folder, RangeHandler) as url:
        tab.goto(url + NAME)
        tab.get_by_role("button", name=str(first), exact=True).click()
        tab.wait_for_selector(".rotate-card")
    channels = atlas.channels(layer=1, kind="out", neuron=first).table()
    assert tab.locator("tbody tr").count() == 25
    assert (
        "q over 40 neurons, p against 9 random vectors" in tab.locator(".rotate-list").inner_text()
    )
    cells = tab.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[1] == f"{channels['kurtosis'][0]:.1f}".replace("-", "−")
    assert float(cells[2]) == pytest.approx(channels["q_value"][0], abs=0.006)
    cards = tab.locator(".rotate-tokens").all_inner_texts()
    assert len(cards) == len(channels) == 2
    for card, tokens in zip(cards, channels["top_tokens"], strict=True):
        assert visible(tokens[0]) in card
    (table,) = atlas.folder.glob("layer-01/out/neurons-*.parquet")
    assert 0 < tab.parts[table.name] < table.stat().st_size
    assert not any(name.endswith(".safetensors") for name in tab.parts)
    assert f"neuron={first}" in tab.url
    assert "Read: " in tab.locator(".rotate-read").inner_text()


def test_a_token_is_found_as_python_finds_it(tab: Any, atlas: Atlas) -> None:
    words = [token for token in atlas.tokens if token.isalpha() and token.isascii()]
    word, hits = next((w, found) for w in words if len(found := atlas.search(w)) > 2)
    with served(atlas.folder, RangeHandler) as url:
        tab.goto(url + NAME)
        tab.get_by_label("Find a token").fill(f" {word.upper()} ")
        tab.get_by_role("button", name="Search").click()
        tab.wait_for_selector(".rotate-results button")
        found = tab.locator(".rotate-results button").all_inner_texts()
        assert len(found) == len(hits)
        for text, hit in zip(found, hits.itertuples(), strict=True):
            where = f"layer {hit.layer}, {hit.kind}, {hit.neuron}, channel {hit.channel + 1}: "
            assert text.startswith(where + visible(hit.token))
            assert float(text.rpartition("q = ")[2]) == pytest.approx(hit.q_value, abs=0.006)
        tab.locator(".rotate-results button").first.click()
        tab.wait_for_selector(".rotate-whole-tail:not([hidden])")
        assert visible(hits["token"][0]) in tab.locator(".rotate-whole-tail").inner_text()
        tab.get_by_label("Find a token").fill("nothing of the kind")
        tab.get_by_role("button", name="Search").click()
        tab.wait_for_selector(".rotate-error")
        assert 'No token of tiny-llama reads "nothing of the kind".' in status(tab)


def test_a_folder_on_disk_needs_no_server(tab: Any, atlas: Atlas, tmp_path: Path) -> None:
    write_page(tmp_path / NAME)
    tab.goto((tmp_path / NAME).as_uri())
    assert "Choose the folder of an atlas" in status(tab)
    tab.locator("input[type=file]").set_input_files(atlas.folder)
    tab.get_by_label("in order").select_option("by p-value")
    tab.wait_for_selector("tbody tr")
    frame = atlas.table(["neuron", "channel", "p_value"], layer=1, kind="out")
    best = frame[frame["channel"] == 0].sort_values(["p_value", "neuron"])["neuron"].iloc[0]
    tab.wait_for_function(f"document.querySelector('tbody button').innerText === '{best}'")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no atlas")
    tab.locator("input[type=file]").set_input_files(tmp_path / "other")
    tab.wait_for_selector(".rotate-error")
    said = "No atlas: the folder other (there is no manifest.json in it). Wanted the folder that"
    assert said in status(tab)


def test_a_server_without_ranges_is_told(tab: Any, atlas: Atlas) -> None:
    with served(atlas.folder, QuietHandler) as url:
        tab.goto(url + NAME)
        tab.wait_for_selector(".rotate-error")
        assert "answers with whole files" in status(tab)
        assert "wanted a server that sends ranges" in status(tab)
        tab.goto(f"{url}{NAME}?atlas=layer-01")
        tab.wait_for_selector(".rotate-error")
        assert f"No atlas: {url}layer-01/ (there is no manifest.json" in status(tab)


def test_without_a_null_nothing_is_said_to_be_the_neurons_own(
    tab: Any, model: Any, tmp_path: Path
) -> None:
    built = Atlas.build(tmp_path / "atlas", model, **ONE_GROUP | {"null": 0})
    write_page(built.folder / NAME)
    with served(built.folder, RangeHandler) as url:
        tab.goto(url + NAME)
        tab.wait_for_selector("tbody tr")
        assert "No q-value: nothing here says" in tab.locator(".rotate-list").inner_text()
        assert tab.locator("tbody tr td:last-child").first.inner_text() == "–"


def test_what_is_not_there_yet_is_said(tab: Any, atlas: Atlas, tmp_path: Path) -> None:
    shutil.copytree(atlas.folder, tmp_path / "atlas")
    (tmp_path / "atlas/layer-01/out/index.sha256").unlink()
    for path in (tmp_path / "atlas/layer-01/out").glob("neurons-*"):
        path.unlink()
    with served(tmp_path / "atlas", RangeHandler) as url:
        tab.goto(url + NAME)
        tab.wait_for_selector("tbody tr")
        assert "No q-value yet: not all" in tab.locator(".rotate-list").inner_text()
        assert tab.locator("tbody tr").first.locator("td").inner_text() == "not there yet"
        tab.get_by_label("Find a token").fill(next(filter(str.isalpha, atlas.tokens)))
        tab.get_by_role("button", name="Search").click()
        tab.wait_for_function("document.querySelector('.rotate-status').innerText.includes('Not')")
        assert status(tab) == "Not searched, as they are not complete: layer 1, out."


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_is_accessible_and_fits(chrome: Any, atlas: Atlas, width: int, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: run `make js`")
    size = {"width": width, "height": 844}
    with (
        served(atlas.folder, RangeHandler) as url,
        chrome.new_context(viewport=size, color_scheme=scheme) as context,
    ):
        tab = context.new_page()
        tab.goto(url + NAME)
        tab.locator("tbody button").first.click()
        tab.locator(".rotate-choose").first.click()
        tab.wait_for_selector(".rotate-whole-tail:not([hidden])")
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        report = tab.evaluate("axe.run()")
        serious = [
            (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
            for violation in report["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []
