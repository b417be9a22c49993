"""A judge is asked blind and in both orders, nothing that it said is lost, and errors are clear."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import pytest

from rotate_core.experiments.descriptions.endpoint import KEY, MODEL, URL, Endpoint, EndpointError
from rotate_core.experiments.descriptions.judge import (
    ANSWERS,
    N_WORDS,
    combine,
    judge_pair,
    parse,
    summary,
    tournament,
    write_prose,
)
from rotate_core.experiments.descriptions.weights import Description

CATS = Description((1, 2), (1.0, 0.5), (" cat", "Cat"))
DOGS = Description((3,), (1.0,), (" dog",))
NOTHING = Description((), (), ())
WORDS = {"ours": [CATS, CATS], "theirs": [DOGS, DOGS]}
NAMES = ["29/3 positive", "29/8 negative"]
EXCERPTS = [["the« cat» sat", "a\nblack« cat»"], ["one« cat» more"]]


@contextmanager
def stand_in(script):
    """A stand-in for a model's server: ``script(request)`` gives a text, or a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(request)
            server.keys.append(self.headers["Authorization"])
            given = script(request) if self.path == "/v1/chat/completions" else (404, {})
            status, body = (200, completion(given)) if isinstance(given, str) else given
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "10")  # so that retries do not pause for long
            with suppress(BrokenPipeError, ConnectionResetError):  # a client that waits no longer
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.keys = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def prompt_of(request):
    (message,) = request["messages"]
    return message["content"]


def writes_then(judge):
    """A script that repeats its evidence as prose, and leaves verdicts to ``judge(a, b)``."""

    def script(request):
        prompt = prompt_of(request)
        shown = re.search(r"^A: (.*)\nB: (.*)$", prompt, re.MULTILINE)
        if shown:
            return judge(*shown.groups())
        return "Fires on " + " ".join(re.findall(r'^".*"', prompt, re.MULTILINE))

    return script


def longest(a, b):
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


def run(server, answers, words=WORDS, **options):
    endpoint = Endpoint(server.url, "m", answers, max_retries=2, **options)
    pairs = [("ours", "theirs")]
    return tournament(endpoint, words, EXCERPTS, pairs, names=NAMES, progress=False)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("A", "A"),
        ("b.", "B"),
        (" **Tie** \n", "tie"),
        ("Answer: A", "A"),
        ("The better description is B.", "B"),
        ("B\n\nIt names the cat, A does not.", "B"),
        ("A names dogs, B names cats.\nB", "B"),
        ("A\nB", "invalid"),
        ("A cat is an animal.", "invalid"),
        ("A or B", "invalid"),
        ("C", "invalid"),
        ("", "invalid"),
    ],
)
def test_an_answer_is_read_strictly(said, verdict):
    assert parse(said) == verdict


def test_a_verdict_counts_only_where_both_orders_agree():
    assert combine("A", "B") == "first"
    assert combine("B", "A") == "second"
    assert combine("A", "A") == combine("B", "B") == "tie"
    assert combine("tie", "tie") == combine("A", "tie") == combine("tie", "A") == "tie"
    assert combine("A", "invalid") == combine("invalid", "B") == "invalid"


def test_the_longer_description_wins_where_the_judge_likes_it(tmp_path):
    with stand_in(writes_then(longest)) as server:
        table = run(server, tmp_path)
    assert table.verdict.tolist() == ["first", "first"]
    assert table.forward.tolist() == ["A", "A"]
    assert table.backward.tolist() == ["B", "B"]
    (row,) = summary(table).to_dict("records")
    assert row == {
        "first": "ours", "second": "theirs",
        "won": 2, "tied": 0, "lost": 0, "invalid": 0, "orders_agree": 1.0,
    }  # fmt: skip


def test_the_judge_sees_no_method_and_marked_excerpts_only(tmp_path):
    with stand_in(writes_then(longest)) as server:
        run(server, tmp_path)
    prompts = [prompt_of(request) for request in server.requests]
    assert not any("ours" in prompt or "theirs" in prompt for prompt in prompts)
    judged = [prompt for prompt in prompts if "A: " in prompt]
    assert len(judged) == 4, "two neurons in both orders"
    assert "1. the« cat» sat\n2. a black« cat»\n" in judged[0]
    wrote = [prompt for prompt in prompts if prompt not in judged]
    assert len(wrote) == 2, "the second neuron has the same tokens: answered from the folder"
    assert '" cat": 1.00\n"Cat": 0.50' in wrote[0]
    assert wrote[0].replace('" cat": 1.00\n"Cat": 0.50', '" dog": 1.00') == wrote[1]
    assert all(r["temperature"] == 0 and r["seed"] == 0 for r in server.requests)
    assert len({r["max_tokens"] for r in server.requests}) == 1


def test_a_judge_that_goes_by_position_gives_ties_only(tmp_path):
    with stand_in(writes_then(lambda a, b: "A")) as server:
        table = run(server, tmp_path)
    assert table.verdict.tolist() == ["tie", "tie"]
    (row,) = summary(table).to_dict("records")
    assert (row["tied"], row["orders_agree"]) == (2, 0.0)


def test_gibberish_is_counted(tmp_path):
    with stand_in(writes_then(lambda a, b: "lorem ipsum" if "cat" in a else "B")) as server:
        table = run(server, tmp_path)
    assert table.verdict.tolist() == ["invalid", "invalid"]
    assert table.forward_said.tolist() == ["lorem ipsum"] * 2
    assert table.backward.tolist() == ["B", "B"]
    assert table.agree.isna().all()
    (row,) = summary(table).to_dict("records")
    assert row["invalid"] == 2
    assert row["orders_agree"] != row["orders_agree"], "NaN"


def test_prose_is_cut_to_its_budget_and_thoughts_are_left_out(tmp_path):
    with stand_in(lambda request: "<think>So, cats?</think>\n" + "word \n" * 99) as server:
        endpoint = Endpoint(server.url, "m", tmp_path)
        assert write_prose(endpoint, CATS) == " ".join(["word"] * N_WORDS)
        before = Description((1,), (1.0,), (" of",), (1,))
        write_prose(endpoint, before)
    assert '" of" as the token before: 1.00' in prompt_of(server.requests[-1])


def test_no_tokens_are_no_prose_and_the_judge_is_told(tmp_path):
    with stand_in(writes_then(longest)) as server:
        endpoint = Endpoint(server.url, "m", tmp_path)
        assert write_prose(endpoint, NOTHING) == ""
        assert server.requests == []
        judge_pair(endpoint, ["«so»"], "", "cats")
    assert "A: (no description was found)\nB: cats" in prompt_of(server.requests[0])


def test_what_was_answered_is_not_asked_again(tmp_path):
    asked = []

    def fails_at_the_fifth(request):
        asked.append(request)
        return (403, {"error": {"message": "quota"}}) if len(asked) == 5 else script(request)

    script = writes_then(longest)
    with stand_in(fails_at_the_fifth) as server:
        with pytest.raises(EndpointError, match=r"answers 403 .*quota"):
            run(server, tmp_path)
        assert len(list(tmp_path.glob("*.json"))) == 4
        table = run(server, tmp_path)
        assert len(asked) == 5 + 2, "two prose, four verdicts, and the one that failed"
        assert run(server, tmp_path).equals(table)
        assert len(asked) == 7
        Endpoint(server.url, "another", tmp_path).ask(prompt_of(asked[0]))
        assert len(asked) == 8, "another model is asked for itself"
    assert table.verdict.tolist() == ["first", "first"]
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".lock", ""}, "no half file"


def test_the_client_tries_again(tmp_path):
    calls = []

    def script(request):
        calls.append(1)
        return (500, {}) if len(calls) == 1 else "yes"

    with stand_in(script) as server:
        assert Endpoint(server.url, "m", tmp_path).ask("?") == "yes"
    assert len(calls) == 2


def test_options_that_a_model_refuses_are_left_out(tmp_path):
    def script(request):
        for name in ("temperature", "max_tokens"):
            if name in request:
                return 400, {"error": {"message": f"no {name}", "param": name}}
        return "yes"

    with stand_in(script) as server:
        assert Endpoint(server.url, "m", tmp_path, max_tokens=7).ask("?") == "yes"
    assert server.requests[-1]["max_completion_tokens"] == 7
    assert server.requests[-1]["seed"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((404, {"error": {"message": "no model m"}}), r"answers 404 .*no model m"),
        ((401, {"error": {"message": "bad key hush-hush"}}), r"answers 401 .*bad key \*\*\*"),
        ((503, {"detail": "busy"}), r"answers 503"),
        ((200, {"object": "list"}), "no chat completion"),
        ((200, b"<html>"), "no chat completion"),
        (" \n", r"empty answer \(it ended by 'stop'\)"),
    ],
)
def test_errors_name_the_address_and_never_the_key(tmp_path, given, message):
    with stand_in(lambda request: given) as server:
        url = server.url.replace("http://", "http://me:hush-hush@")
        endpoint = Endpoint(url, "m", tmp_path, "hush-hush", max_retries=0)
        with pytest.raises(EndpointError, match=message) as caught:
            endpoint.ask("?")
    said = str(caught.value)
    assert said.startswith(server.url)
    assert "'m'" in said
    assert URL in said
    assert "hush-hush" not in said
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "key" not in repr(endpoint)
    assert not list(tmp_path.glob("*.json"))


SECRET = 'hu+sh/h"u\\sh'


@pytest.mark.parametrize("form", [str, quote, quote_plus, json.dumps, repr])
def test_a_key_that_a_server_echoes_is_neither_stored_nor_shown(tmp_path, form):
    echoed = form(SECRET)
    with stand_in(lambda request: f"A, by {echoed} and hidden-word") as server:
        url = server.url.replace("http://", "http://me:hidden-word@")
        endpoint = Endpoint(url, "m", tmp_path, SECRET, max_retries=0)
        said = endpoint.ask("?")
    for text in (said, *(file.read_text() for file in tmp_path.glob("*.json")), repr(endpoint)):
        assert not any(word in text for word in (echoed, SECRET, "hidden-word"))
    assert said.startswith("A, by")
    assert Endpoint(url + "?token=another-one", "m", tmp_path).address == server.url
    with pytest.raises(ValueError, match="wanted a base URL") as caught:
        Endpoint("me:hidden-word@localhost/v1?token=another-one", "m", tmp_path)
    assert "hidden-word" not in str(caught.value)
    assert "another-one" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'{"answer": 5}', b'{"answer": ""}', b"{}"])
def test_a_damaged_answer_is_named_and_asked_again(tmp_path, content, caplog):
    with stand_in(lambda request: "B") as server:
        endpoint = Endpoint(server.url, "m", tmp_path)
        endpoint.ask("?")
        (file,) = tmp_path.glob("*.json")
        file.write_bytes(content)
        assert endpoint.ask("?") == "B"
        assert str(file) in caplog.text
        assert endpoint.ask("?") == "B"
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": 5}, {"choices": [5]}, {"choices": {}}, {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": ["A"]}, "finish_reason": "stop"}]}, [], 5, None, "A",
    ],
)  # fmt: skip
def test_an_answer_that_is_no_text_is_an_error(tmp_path, reply):
    with (
        stand_in(lambda request: (200, reply)) as server,
        pytest.raises(EndpointError, match="no chat completion"),
    ):
        Endpoint(server.url, "m", tmp_path, max_retries=0).ask("?")
    assert not list(tmp_path.glob("*.json"))


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match="pip install openai"):
        Endpoint("http://x", "m", tmp_path).ask("?")


def test_a_server_that_is_not_there(tmp_path):
    endpoint = Endpoint(f"http://127.0.0.1:{free_port()}/v1", "m", tmp_path, max_retries=0)
    with pytest.raises(EndpointError, match="does not answer"):
        endpoint.ask("?")


def test_a_server_that_is_silent(tmp_path):
    with stand_in(lambda request: time.sleep(0.5) or "late") as server:
        endpoint = Endpoint(server.url, "m", tmp_path, timeout=0.1, max_retries=0)
        with pytest.raises(EndpointError, match=r"does not answer .*timed out"):
            endpoint.ask("?")


def test_the_environment_names_the_endpoint(tmp_path, monkeypatch):
    for name in (URL, MODEL, KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "someone else's")
    assert Endpoint.from_environment(tmp_path) is None
    monkeypatch.setenv(KEY, "hush")
    with pytest.raises(ValueError, match=f"{KEY} set without {URL} and {MODEL}"):
        Endpoint.from_environment(tmp_path)
    monkeypatch.setenv(MODEL, "m")
    monkeypatch.setenv(URL, "localhost:8000")
    with pytest.raises(ValueError, match="'localhost:8000': wanted a base URL"):
        Endpoint.from_environment(tmp_path)
    with stand_in(lambda request: "yes") as server:
        monkeypatch.setenv(URL, server.url)
        Endpoint.from_environment(tmp_path).ask("?")
        monkeypatch.delenv(KEY)
        Endpoint.from_environment(tmp_path).ask("again?")
    assert server.keys == ["Bearer hush", "Bearer none"], "and never OPENAI_API_KEY"


def test_a_method_without_descriptions_is_named(tmp_path):
    with pytest.raises(ValueError, match="'theirs' has 1 descriptions, for 2 neurons"):
        run(SimpleNamespace(url="http://x"), tmp_path, WORDS | {"theirs": [DOGS]})


# --- a real server, which serves the embedded model --------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def transformers_serve(checkpoint, log):
    """``transformers serve`` with one model, until the context ends."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(checkpoint)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            until = time.monotonic() + 120
            while not healthy(port):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_the_embedded_model_writes_and_judges(tmp_path, monkeypatch):
    """Its verdicts are nonsense, and that is fine: this is about the way there and back."""
    from rotate_core import load_model

    days = Description((4, 5), (1.0, 0.9), (" Monday", " Friday"))
    words = {"ours": [CATS, days], "theirs": [DOGS, CATS]}
    checkpoint = load_model("smollm2-135m").path
    monkeypatch.setenv(MODEL, str(checkpoint))
    monkeypatch.delenv(KEY, raising=False)
    with transformers_serve(checkpoint, tmp_path / "log") as url:
        monkeypatch.setenv(URL, url)
        endpoint = Endpoint.from_environment(tmp_path / "answers", max_tokens=40, max_retries=0)
        pairs = [("ours", "theirs")]
        table = tournament(endpoint, words, EXCERPTS, pairs, names=NAMES, progress=False)
        with pytest.raises(EndpointError, match=re.escape(f"{url} answers 400")):
            Endpoint(url, "no-such-model", tmp_path / "answers", max_retries=0).ask("?")
    assert len(table) == 2
    assert (table[["first_prose", "second_prose"]].map(str.strip) != "").all(axis=None)
    assert table.forward.isin(ANSWERS).all()
    assert table.backward.isin(ANSWERS).all()
    assert (table[["forward_said", "backward_said"]] != "").all(axis=None)
    (row,) = summary(table).to_dict("records")
    assert row["won"] + row["tied"] + row["lost"] + row["invalid"] == 2
    assert row["invalid"] == (table[["forward", "backward"]] == "invalid").any(axis=1).sum()
    again = tournament(endpoint, words, EXCERPTS, pairs, names=NAMES, progress=False)
    assert again.equals(table), "from the folder: the server is gone"
    print(table.T.to_string())
