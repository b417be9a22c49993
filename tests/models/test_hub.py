"""Of a model on the hub only what is needed is fetched; this hub is a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from rotate_core import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "Access to model org/gated is restricted."


@dataclass
class Hub:
    """What the server holds, and what it was asked for."""

    directory: Path
    """The files of org/model."""
    asked: list[str] = field(default_factory=list)
    """The names of the files that were sent."""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, _, repository, *rest = self.path.split("/")
                file = hub.directory / rest[-1] if rest[:1] == ["resolve"] else hub.directory / "-"
                if repository == "gated":
                    self.refuse(403, "GatedRepo", GATED)
                elif repository != "model":
                    self.refuse(401, "RepoNotFound", "Repository not found")
                elif not file.is_file():
                    self.refuse(404, "EntryNotFound", "Entry not found")
                else:
                    content = file.read_bytes()
                    self.send_response(200)
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    if self.command == "GET":
                        hub.asked.append(file.name)
                        self.wfile.write(content)

            do_HEAD = do_GET

            def refuse(self, status: int, code: str, message: str) -> None:
                self.send_response(status)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", message)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of huggingface_hub's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(make_checkpoint, cache, monkeypatch) -> Iterator[Hub]:
    """A hub with one model in many shards, which huggingface_hub takes for its own."""
    hub = Hub(make_checkpoint("llama", shard_size="20KB"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub.handler())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in ("constants", "file_download"):  # before 1.0 the second has a copy
        name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, template, raising=False)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_what_is_needed_is_fetched(hub) -> None:
    model = load_model("org/model")
    assert hub.asked == ["config.json"]
    assert (model.name, model.n_layers, model.checksum) == ("org/model", 3, COMMIT)
    neurons = model.neurons(1, "in", [3])
    shard = model.checkpoint.files["model.layers.1.mlp.up_proj.weight"]
    assert hub.asked == ["config.json", "model.safetensors.index.json", shard]
    expected = load_model(hub.directory).neurons(1, "in", [3])
    assert torch.equal(neurons.vectors, expected.vectors)


def test_what_was_fetched_is_there_offline(hub, monkeypatch) -> None:
    load_model("org/model").neurons(1, "in")
    fetched = list(hub.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = load_model("org/model")
    model.neurons(1, "in")
    assert hub.asked == fetched
    with pytest.raises(ConnectionError, match="neither in the hub's cache nor to be reached"):
        model.vocabulary(2)


def test_the_tokenizer_comes_from_the_hub_too(hub) -> None:
    vocabulary = load_model("org/model").vocabulary(2)
    assert vocabulary.tokens == load_model(hub.directory).vocabulary(2).tokens
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(hub.asked)


def test_a_single_file_is_found(hub, make_checkpoint) -> None:
    hub.directory = make_checkpoint("llama")
    model = load_model("org/model")
    assert len(model.neurons(0, "out")) == model.d_mlp
    assert hub.asked == ["config.json", "model.safetensors"]


def test_a_model_of_pickles_is_refused(hub) -> None:
    for file in hub.directory.glob("*.safetensors*"):
        file.unlink()
    (hub.directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors .* not read"):
        load_model("org/model").neurons(0, "in")


def test_a_gated_model_says_what_to_do(hub) -> None:
    with pytest.raises(PermissionError, match=f"the hub says: {GATED} .* 'hf auth login'"):
        load_model("org/gated")


def test_an_unknown_model_is_named(hub) -> None:
    with pytest.raises(
        ValueError, match=r"no directory 'org/nothing' here and no such model on the"
    ):
        load_model("org/nothing")


def test_without_a_network(cache) -> None:
    with pytest.raises(ConnectionError, match=r"no directory 'org/model' here, and config\.json"):
        load_model("org/model")
