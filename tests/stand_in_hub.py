"""A hub on this machine: what huggingface_hub uploads over HTTP is kept, and sent back."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
GATED = "Access to this model is restricted."
"""What the hub says of a gated repository."""


@dataclass
class StandIn:
    """Repositories by "datasets/organisation/name", each with the files of its branches."""

    branches: dict[tuple[str, str], Files] = field(default_factory=dict)
    private: list[bool] = field(default_factory=list)
    """Whether repositories were asked for as private ones."""
    sent: list[str] = field(default_factory=list)
    """Files that were downloaded."""
    gated: set[str] = field(default_factory=set)
    """Repositories that the asker may not read."""

    def files(self, repository: str, revision: str) -> Files | None:
        """Of a branch, or of a commit: a commit is named by its content."""
        for (name, branch), files in self.branches.items():
            if name == repository and revision in (branch, commit(files)):
                return files
        return None


def commit(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match unquote(urlsplit(self.path).path).strip("/").split("/"):
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                self.hub.private.append(asked.get("private", asked.get("visibility") == "private"))
                name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
                self.hub.branches.setdefault((name, "main"), {})
                self.answer({"url": f"http://{self.headers['Host']}/{name}"})
            case ["api", kind, owner, name, "branch", branch]:
                repository = f"{kind}/{owner}/{name}"
                made = dict(self.hub.branches[repository, "main"])
                self.hub.branches.setdefault((repository, branch), made)
                self.answer({})
            case ["api", _, _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer({"files": [{"path": path, **plain} for path in paths]})
            case ["api", kind, owner, name, "commit", branch]:
                files = self.hub.branches[f"{kind}/{owner}/{name}", branch]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        files[line["value"]["path"]] = content
                url = f"http://{self.headers['Host']}/{kind}/{owner}/{name}/commit/{commit(files)}"
                self.answer({"commitUrl": url, "commitOid": commit(files)})
            case _:
                self.answer({})

    def do_GET(self) -> None:
        match unquote(urlsplit(self.path).path).strip("/").split("/"):
            case ["api", kind, owner, name, *rest] if rest[:1] in ([], ["revision"], ["tree"]):
                files = self.hub.files(f"{kind}/{owner}/{name}", rest[1] if rest else "main")
                if files is None:
                    known = any(at[0] == f"{kind}/{owner}/{name}" for at in self.hub.branches)
                    code = "RevisionNotFound" if known else "RepoNotFound"
                    self.answer({"error": code}, 404, code=code)
                elif rest[:1] == ["tree"]:
                    self.answer(
                        [
                            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                            for path, content in files.items()
                        ]
                    )
                else:
                    listed = [{"rfilename": path} for path in files]
                    self.answer({"id": f"{owner}/{name}", "sha": commit(files), "siblings": listed})
            case parts if "resolve" in parts:
                self.file("/".join(parts))
            case _:
                self.answer({}, 404)

    def file(self, path: str) -> None:
        repository, rest = path.split("/resolve/")
        revision, _, name = rest.partition("/")
        if repository.count("/") == 1:
            repository = f"models/{repository}"
        files = self.hub.files(repository, revision)
        if repository in self.hub.gated:
            self.answer({}, 403, code="GatedRepo", message=GATED)
            return
        if files is None:
            self.answer({}, 401, code="RepoNotFound", message="Repository not found")
            return
        if name not in files:
            self.answer({}, 404, code="EntryNotFound", at=commit(files))
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit(files))
        self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
        self.send_header("Content-Length", str(len(files[name])))
        self.end_headers()
        if self.command == "GET":
            self.hub.sent.append(name)
            self.wfile.write(files[name])

    do_HEAD = do_GET

    def answer(
        self, content: object, status: int = 200, *, code: str = "", message: str = "", at: str = ""
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        said = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": at}
        for name, value in said.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stand_in_hub(monkeypatch: pytest.MonkeyPatch, cache: object) -> Iterator[StandIn]:
    """A hub that huggingface_hub takes for its own, with an empty cache."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = "huggingface_hub.constants"
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    empty_cache(monkeypatch, cache)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in ("constants", "file_download"):  # before 1.0 the second has a copy
        name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(name, template, raising=False)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def empty_cache(monkeypatch: pytest.MonkeyPatch, cache: object) -> None:
    """An empty folder in the place of huggingface_hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
