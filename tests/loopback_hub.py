"""A hub on 127.0.0.1 that speaks as much of the Hub's HTTP as `huggingface_hub` needs to fetch a model.

Model info with digests, HEAD and GET of files with ranges, large files by a redirect to
another host ("storage"),
errors with the Hub's own headers. `faults` makes it fail on purpose. Real HTTP through real sockets; no real network.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Answer:
    """What a fault sends instead: `cut` closes the connection after so many bytes of `body`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


Fault = Callable[["Request"], Answer | None]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass
class Hub:
    """Repositories by id, each a dict of file name -> bytes, all at one commit on the branch `main`."""

    url: str
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fail(self, part: str, *answers: Answer, method: str = "") -> None:
        """The next requests whose path holds `part` get these answers, one each; the last one for ever."""
        left = list(answers)

        def fault(request: Request) -> Answer | None:
            if part not in request.path or (method and method != request.method):
                return None
            return left.pop(0) if len(left) > 1 else left[0]

        self.faults.append(fault)

    def fail_once(self, part: str, answer: Answer, method: str = "") -> None:
        """The next request whose path holds `part` gets this answer; later ones are served."""
        left = [answer]

        def fault(request: Request) -> Answer | None:
            fits = part in request.path and (not method or method == request.method)
            return left.pop() if fits and left else None

        self.faults.append(fault)

    def asked(self, part: str, method: str = "GET") -> int:
        return sum(part in request.path and request.method == method for request in self.requests)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        for fault in self.faults:
            if (found := fault(request)) is not None:
                return found
        path = unquote(request.path)
        if path.startswith("/api/models/"):
            return self._info(path.removeprefix("/api/models/"))
        repo, _, rest = path.lstrip("/").removeprefix("storage/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo not in self.repos:
            return _error(404, "RepoNotFound", "Repository not found")
        if revision not in ("main", self.commit):
            return _error(404, "RevisionNotFound", "Invalid rev id")
        if name not in self.repos[repo]:
            return _error(404, "EntryNotFound", "Entry not found")
        return self._file(request, name, self.repos[repo][name], stored=path.startswith("/storage/"))

    def _info(self, rest: str) -> Answer:
        repo, _, revision = rest.partition("/revision/")
        if repo not in self.repos:
            return _error(401, "RepoNotFound", "Invalid username or password.")  # as the real one does
        if revision not in ("", "main", self.commit):
            return _error(404, "RevisionNotFound", "Invalid rev id")
        files = [_sibling(name, data) for name, data in self.repos[repo].items()]
        info = {"id": repo, "sha": self.commit, "siblings": files, "private": False, "tags": [], "downloads": 0}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _file(self, request: Request, name: str, data: bytes, *, stored: bool) -> Answer:
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{_digest(name, data)}"', "Accept-Ranges": "bytes"}
        if is_large(name) and not stored:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            # Another host, as the real one's storage is: huggingface_hub must not send the token there.
            storage = self.url.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{storage}/storage{request.path}?X-Amz-Signature=abc"
            return Answer(302, headers)
        span = request.headers.get("range", "")
        if not span:
            return Answer(200, headers, data)
        first = int(span.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return Answer(206, headers, data[first:])


def is_large(name: str) -> bool:
    """Whether the hub keeps the file by LFS, with a SHA-256, instead of in git itself."""
    return name.endswith((".safetensors", ".bin"))


def _digest(name: str, data: bytes) -> str:
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _digest("", data)}
    if is_large(name):
        found["lfs"] = {"sha256": _digest(name, data), "size": len(data), "pointerSize": 134}
    return found


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
    return Answer(status, headers, json.dumps({"error": message}).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.hub.answer(Request(self.command, urlsplit(self.path).path, headers))
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body[: answer.cut])
        if answer.cut is not None:
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the test reads `Hub.requests`."""


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As HF_ENDPOINT would have done, had it been set before this process imported `huggingface_hub`."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def pointed_at(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A running hub that this process's `huggingface_hub` asks, with `cache` for what it fetches."""
    from huggingface_hub import close_session, constants

    with serve() as running:
        point_at(monkeypatch, running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield running
        close_session()


@contextmanager
def serve() -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
