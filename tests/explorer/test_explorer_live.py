"""The explorer with a kernel, in a real browser: Voila and JupyterLab, on a tiny random model.

Run by .ci/run; by hand: ``pytest -m browser``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsers import AXE, FLAGS, chromium

from rotate_core import load_model
from rotate_core.text.corpus import Windows

pytestmark = pytest.mark.browser

APP = Path(__file__).parents[2] / "rotate_core/explorer/app.ipynb"
PYTHON_ANSWERED = "/by Python/.test(document.querySelector('.rotate-status').textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=chromium(),
            args=FLAGS,
            viewport={"width": 1280, "height": 1000},
        ) as context,
    ):
        yield context


@pytest.fixture(scope="module")
def serve(
    checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """A function that starts a server on the app, and says where."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copyfile(APP, folder / "app.ipynb")
    servers: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "ROTATE_MODEL": str(checkpoints("llama")),
            "PYTHONPATH": str(APP.parents[2]),
            "HF_HUB_OFFLINE": "1",
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        }
        with (folder / f"{command[0]}.log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", *command, "--no-browser", f"--port={port}"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        servers.append(server)
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=60).close()
                return url
            except OSError:
                assert servers[-1].poll() is None, (folder / f"{command[0]}.log").read_text()
                time.sleep(0.5)
        raise TimeoutError((folder / f"{command[0]}.log").read_text()[-3000:])

    yield start
    for server in servers:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def try_everything(tab: Any) -> None:
    """What only Python can do, by the controls that are shown only when it answers."""
    tab.wait_for_selector(".rotate-layer", timeout=120_000)
    tab.wait_for_selector(".rotate-card:not(.rotate-pending)", timeout=60_000)
    slider = tab.locator("input[name=lambda_kurtosis]")
    slider.focus()
    slider.press("ArrowRight")
    tab.wait_for_function(PYTHON_ANSWERED, timeout=60_000)
    assert slider.input_value() == "0.35"

    tab.locator(".rotate-index").fill("7")
    tab.locator(".rotate-index").press("Enter")
    tab.wait_for_function(PYTHON_ANSWERED, timeout=60_000)
    tab.get_by_label("solver").select_option("householder")
    tab.get_by_role("button", name="Cancel").click(timeout=60_000)
    tab.get_by_label("solver").select_option("geodesic")
    tab.wait_for_function(PYTHON_ANSWERED, timeout=60_000)

    tab.get_by_label("Find a token").fill("the")
    tab.locator(".rotate-search button").first.click()
    tab.wait_for_selector(".rotate-results button", timeout=60_000)
    tab.get_by_label("Try the neuron on a text").fill("The cat")
    tab.get_by_label("Switch off").select_option("0")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.wait_for_selector(".rotate-prompt-output table", timeout=120_000)
    words = tab.locator(".rotate-strip").first.inner_text()
    assert "cat" in words.replace("\n", "")
    assert not tab.get_by_role("button", name="Rotate it yourself").is_visible()
    try_steering(tab)


def try_steering(tab: Any) -> None:
    """By keys alone: what the slider says aloud, what the model says, at 390 pixels, an error."""
    steering = tab.get_by_role("group", name="Steering")
    assert steering.get_by_text("Choose a channel").is_hidden()  # the first is chosen
    slider = steering.get_by_role("slider", name="Steer along channel 1")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    assert "0.15 × the residual stream's length, away from" in slider.get_attribute(
        "aria-valuetext"
    )
    steering.get_by_text("nats").wait_for(timeout=60_000)
    assert steering.locator("dt").all_inner_texts() == ["by itself", "steered"]
    assert steering.get_by_role("columnheader", name="steered").is_visible()
    tab.set_viewport_size({"width": 390, "height": 844})
    assert slider.bounding_box()["width"] > 100
    box = tab.locator(".rotate-explorer").bounding_box()
    assert steering.bounding_box()["width"] <= box["width"] <= 390
    tab.set_viewport_size({"width": 1280, "height": 1000})
    steering.get_by_role("button", name="Back to 0").press("Enter")
    steering.get_by_text("The likeliest next tokens").wait_for(timeout=60_000)
    assert steering.locator("dt").all_inner_texts() == ["by itself"]
    tab.locator(".rotate-choose").first.click()
    assert steering.get_by_text("Choose a channel").is_visible()
    assert slider.is_hidden()
    tab.locator(".rotate-choose").first.click()
    tab.get_by_label("Try the neuron on a text").fill("")
    slider.press("ArrowRight")
    steering.get_by_text("The text above is empty").wait_for(timeout=10_000)
    tab.get_by_label("Kind").select_option("gate")
    steering.get_by_text("writes nothing").wait_for(timeout=60_000)
    assert slider.is_hidden()


def test_voila(browser: Any, serve: Callable[..., str]):
    makefile = (APP.parents[2] / "Makefile").read_text()
    (local,) = re.findall("^LOCAL := (.*)$", makefile, re.MULTILINE)
    url = serve("voila", *shlex.split(local), "app.ipynb")
    for path in ("/", "/api/kernels/11111111-1111-1111-1111-111111111111/channels"):
        request = urllib.request.Request(url + path, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=60)
    tab = browser.new_page()
    tab.goto(url, timeout=120_000)
    try_everything(tab)


def test_jupyterlab(browser: Any, serve: Callable[..., str]):
    url = serve("jupyterlab", "--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token=")
    tab = browser.new_page()
    tab.goto(f"{url}/lab/tree/app.ipynb?reset", timeout=120_000)
    tab.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=120_000)
    tab.get_by_text("| Idle").wait_for(timeout=120_000)  # a cell run before that stays unrun
    tab.locator(".jp-CodeCell .cm-content").first.click()
    tab.keyboard.press("Shift+Enter")
    try_everything(tab)


def test_a_page_says_what_was_made_otherwise(browser: Any, checkpoints: Callable[[str], Path]):
    from rotate_core import Explorer, Settings
    from rotate_core.explorer.page import page_script

    file: dict[str, str | int] = {
        "path": "u.bin", "bytes": 1, "checksum": "", "vocabulary": "unembedding"
    }  # fmt: skip
    content = Explorer(
        load_model(checkpoints("llama")),
        neurons=[(1, "out", 3)],
        n_channels=2,
        null=3,
        settings=Settings(threshold=2.5, restarts=2),
        file=file,
    ).content
    tab = browser.new_page()
    tab.set_content(f"<main><script>{page_script(content)}</script></main>")
    tab.wait_for_selector(".rotate-card")
    assert "against 3 random vectors; no q-value" in tab.locator(".rotate-card").first.inner_text()
    assert "made with restarts=2" in tab.locator(".rotate-controls").inner_text()
    assert not tab.get_by_role("button", name="Rotate it yourself").is_visible()
    assert not tab.locator(".rotate-made").is_visible()
    assert tab.get_by_role("group", name="Steering", include_hidden=True).is_hidden()  # no Python
    tab.evaluate("location.hash = '#layer=1&kind=out&neuron=3&threshold=6'")
    made = tab.locator(".rotate-made")
    made.wait_for(timeout=10_000)
    assert "made with threshold 2.5, not 6.0" in made.inner_text()

    other = content | {"file": file, "refusal": ""}
    tab = browser.new_page()
    tab.set_content(f"<main><script>{page_script(other)}</script></main>")
    tab.wait_for_selector(".rotate-card")
    tab.get_by_text("another vocabulary matrix (embedding)").wait_for(timeout=10_000)
    assert not tab.get_by_role("button", name="Rotate it yourself").is_visible()


def test_token_text_is_never_html(browser: Any, checkpoints: Callable[[str], Path]):
    from rotate_core import Explorer
    from rotate_core.explorer.page import page_script

    explorer = Explorer(load_model(checkpoints("llama")), neurons=[(1, "out", 3)], n_channels=2)
    evil = "</script><img src=x onerror='window.hacked=1'>"
    (neuron,) = explorer.content["neurons"]
    neuron["note"] = neuron["source"] = evil
    for tokens in (neuron["positive"], neuron["negative"], *(c["top"] for c in neuron["channels"])):
        tokens[:] = [(evil, z) for _, z in tokens]
    tab = browser.new_page()
    tab.set_content(f"<main><script>{page_script(explorer.content)}</script></main>")
    tab.wait_for_selector(".rotate-card")
    tab.get_by_label("Find a token").fill(evil)
    tab.get_by_role("button", name="Search").click()
    tab.wait_for_selector(".rotate-results button")
    assert evil in tab.locator(".rotate-token").first.inner_text().replace("␣", " ")
    assert tab.locator("img").count() == 0
    assert tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_channel_is_taken_out_of_a_neuron_on_text(
    browser: Any, checkpoints: Callable[[str], Path], scheme: str
):
    """By keys alone, on a page without Python; the values are Python's, and axe has no word."""
    from rotate_core import Explorer
    from rotate_core.explorer.page import page_script
    from rotate_core.text import activations

    model = load_model(checkpoints("llama"))
    windows = Windows(torch.arange(240).view(6, 40), torch.arange(6), tuple("abcdef"), source="t")
    inputs = activations(model, windows, layers=[1], site="mlp_in", progress=False)
    neurons = [(1, "gate", 3), (1, "out", 3), (0, "in", 1)]
    content = Explorer(model, neurons=neurons, n_channels=2, inputs=inputs).content
    tab = browser.new_page()
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.set_content(f"<main><script>{page_script(content)}</script></main>")
    on_text = tab.get_by_role("group", name="On text")
    nothing = on_text.get_by_role("radio", name="nothing")
    assert nothing.is_checked()
    first = on_text.locator(".rotate-peak").first
    before = first.get_attribute("data-value")
    nothing.focus()
    nothing.press("ArrowRight")
    assert on_text.get_by_role("radio", name="channel 1").is_checked()
    channel = content["neurons"][0]["text"]["channels"][0]
    assert (
        f"Without channel 1, {100 * channel['left']:.0f}%".replace("-", "−") in on_text.inner_text()
    )
    assert first.get_attribute("data-value") != before
    tab.get_by_role("button", name="Channel 2").click()  # the card leads, too
    assert on_text.get_by_role("radio", name="channel 2").is_checked()
    first.focus()
    first.press("ArrowRight")
    assert tab.evaluate("document.activeElement.dataset.value !== undefined")
    assert not tab.evaluate("document.activeElement.matches('.rotate-peak')")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if AXE.is_file():
        tab.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        assert tab.evaluate("axe.run('.rotate-explorer')")["violations"] == []
    tab.get_by_role("button", name="Next neuron").click()
    on_text.get_by_role("radio", name="channel 1").check()
    assert "an out vector has no part in when its neuron is active" in on_text.inner_text()
    tab.get_by_role("button", name="Next neuron").click()
    assert on_text.is_hidden(), "no text was read at that layer"
    tab.close()
