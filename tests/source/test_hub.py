"""The hub, over real HTTP from a loopback server: what arrives is what was promised, and every failure says so."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import COMMIT, Answer, Hub, point_at, pointed_at

from edgekit.errors import BundleError, EdgeKitError, ResourceError, SourceError, UsageError
from edgekit.source import hub

REPO = "tiny/model"
WEIGHTS = bytes(range(256)) * 400
TOKEN = "hf_SecretSecretSecretSecretSecret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub with one model, an empty cache, and this process's huggingface_hub pointed at both."""
    with pointed_at(monkeypatch, tmp_path / "cache") as running:
        running.repos[REPO] = {"config.json": b"{}", "model.safetensors": WEIGHTS, "1_Pooling/config.json": b'{"a": 1}'}
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made, in seconds; none is made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def fetch(names: list[str] | None = None, revision: str | None = None, *, offline: bool = False) -> Path:
    snapshot = hub.find(REPO, revision, offline=offline)
    return hub.download(snapshot, sorted(snapshot.digests) if names is None else names)


def cached_blobs(tmp_path: Path) -> set[bytes]:
    return {path.read_bytes() for path in (tmp_path / "cache").rglob("blobs/*") if path.is_file()}


def test_files_arrive_whole_at_a_full_commit(server: Hub) -> None:
    folder = fetch()
    assert folder.name == hub.find(REPO).commit == COMMIT
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "1_Pooling/config.json").read_bytes() == b'{"a": 1}'
    tokens = {request.path.split("/")[1]: request.headers.get("authorization") for request in server.requests}
    assert tokens["storage"] is None, "the token goes to no other host"
    assert tokens["tiny"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_the_cache_is_used_again(server: Hub, revision: str | None) -> None:
    assert fetch(revision=revision) == fetch(revision=revision)
    assert server.asked("/storage/") == 1
    assert server.asked("config.json") == 2  # the content of each of the other two, once


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_offline_opens_no_socket(server: Hub, revision: str | None, request: pytest.FixtureRequest) -> None:
    folder = fetch(revision=revision)
    request.getfixturevalue("no_sockets")
    assert fetch(revision=revision, offline=True) == folder
    with pytest.raises(SourceError, match="not in the local cache") as caught:
        hub.find("tiny/other", offline=True)
    assert caught.value.exit_code == 3
    with pytest.raises(SourceError, match=r"more\.json .*not in the local cache"):
        hub.download(hub.Snapshot(REPO, COMMIT, {"more.json": ""}, offline=True), ["more.json"])
    with pytest.raises(SourceError, match="v2 is not in the local cache"):
        hub.find(REPO, "v2", offline=True)


def test_offline_by_the_environment(server: Hub, monkeypatch: pytest.MonkeyPatch, no_sockets: None) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="offline"):
        hub.find(REPO)


def test_a_hub_that_is_down_is_an_error_even_with_a_cache(server: Hub, pauses: list[float]) -> None:
    fetch()
    server.fail("/api/models/", Answer(503))
    with pytest.raises(SourceError, match="fails to serve") as caught:
        hub.find(REPO)
    assert "--offline" in caught.value.hint
    assert (fetch(offline=True) / "model.safetensors").read_bytes() == WEIGHTS


def _hub_error(status: int, code: str = "", message: str = "") -> Answer:
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": message} if code or message else {})


FAILURES = {
    "no such model": (_hub_error(401, "RepoNotFound"), "hides it", "spelling"),
    "no such model, to a user": (_hub_error(404, "RepoNotFound"), "hides it", "HF_TOKEN"),
    "404 of a mirror": (Answer(404), "hides it", "spelling"),
    "gated, no token": (_hub_error(401, "GatedRepo"), "gated", "accept them at http://127.0.0.1"),
    "gated": (_hub_error(403, "GatedRepo"), "gated", "hf auth login"),
    "bad token": (
        _hub_error(401, message="Invalid credentials in Authorization header"),
        "does not accept your token",
        "new token",
    ),
    "forbidden": (Answer(403), "forbids", "right to read"),
    "disabled": (_hub_error(403, message="Access to this resource is disabled."), "forbids", "disabled"),
    "no such revision": (_hub_error(404, "RevisionNotFound"), "has no tiny/model at v2", "branches"),
    "captive portal": (
        Answer(200, {"Content-Type": "text/html"}, b"<html>Log in"),
        "not answer like a Hugging Face hub",
        "proxy",
    ),
    "other JSON": (Answer(200, {}, b"[]"), "not answer like a Hugging Face hub", "HF_ENDPOINT"),
    "half an answer": (
        Answer(200, {}, b'{"id": "a", "sha": "main", "siblings": []}'),
        "does not name the commit",
        "HF_ENDPOINT",
    ),
    "teapot": (Answer(418), "not answer like a Hugging Face hub", "HF_ENDPOINT"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_refusal_says_which(server: Hub, pauses: list[float], case: str) -> None:
    answer, message, hint = FAILURES[case]
    server.fail("/api/models/", answer)
    with pytest.raises(SourceError) as caught:
        hub.find(REPO, "v2")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3
    assert server.asked("/api/models/") == 1
    assert pauses == []


def test_another_commit_than_the_pinned_one(server: Hub) -> None:
    server.fail("/api/models/", Answer(200, {}, b'{"id": "a", "sha": "%s", "siblings": []}' % (b"f" * 40)))
    with pytest.raises(SourceError, match="does not name the commit"):
        hub.find(REPO, COMMIT)


def test_a_file_without_a_commit_is_not_from_a_hub(server: Hub) -> None:
    server.fail("model.safetensors", Answer(200), method="HEAD")
    with pytest.raises(SourceError, match="does not answer like a Hugging Face hub"):
        fetch()


def test_a_missing_file(server: Hub) -> None:
    with pytest.raises(SourceError, match=r"no vocab\.txt of tiny/model"):
        hub.download(hub.Snapshot(REPO, COMMIT, {"vocab.txt": ""}), ["vocab.txt"])


@pytest.mark.parametrize(
    ("status", "message"), [(408, "too slow"), (429, "too many requests"), (502, "fails to serve")]
)
def test_five_more_tries_further_and_further_apart(server: Hub, pauses: list[float], status: int, message: str) -> None:
    server.fail("/api/models/", Answer(status))
    with pytest.raises(SourceError, match=message):
        hub.find(REPO)
    assert server.asked("/api/models/") == 6
    assert pauses == [1, 2, 4, 8, 8]


def test_retry_after_is_honoured(server: Hub, pauses: list[float]) -> None:
    for wait in ("7", "3"):
        server.fail_once("/api/models/", Answer(429, {"Retry-After": wait}))
    assert hub.find(REPO).commit == COMMIT
    assert pauses == [7, 3]


def test_too_long_a_retry_after_is_told_at_once(server: Hub, pauses: list[float]) -> None:
    server.fail("/api/models/", Answer(429, {"Retry-After": "3600"}))
    with pytest.raises(SourceError, match="too many requests"):
        hub.find(REPO)
    assert pauses == []


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_passing_failure_of_a_file_is_waited_for(server: Hub, pauses: list[float], status: int, method: str) -> None:
    for _ in range(2):
        server.fail_once("model.safetensors", Answer(status), method)
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert pauses


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_lasting_failure_of_a_file_is_reported(server: Hub, pauses: list[float], tmp_path: Path, method: str) -> None:
    server.fail("model.safetensors", Answer(500), method=method)
    with pytest.raises(SourceError, match=r"fails to serve model\.safetensors"):
        fetch()
    assert WEIGHTS not in cached_blobs(tmp_path)
    assert len(pauses) <= 10


def test_a_cut_download_goes_on_where_it_stopped(
    server: Hub, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what is kept is a multiple of this
    server.fail_once("/storage/", Answer(200, {"Content-Length": str(len(WEIGHTS))}, WEIGHTS, cut=50_000))
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.headers["range"] for request in server.requests if "range" in request.headers]
    assert len(ranges) == 1
    assert 0 < int(ranges[0].removeprefix("bytes=").rstrip("-")) <= 50_000


def test_a_download_that_is_always_cut_leaves_nothing(server: Hub, pauses: list[float], tmp_path: Path) -> None:
    server.fail("/storage/", Answer(200, {"Content-Length": str(len(WEIGHTS))}, WEIGHTS, cut=0))
    with pytest.raises(SourceError, match="connection to the hub broke"):
        fetch()
    assert WEIGHTS not in cached_blobs(tmp_path)
    assert not list((tmp_path / "cache").rglob("*model.safetensors"))


def test_a_wrong_length(server: Hub, pauses: list[float], tmp_path: Path) -> None:
    server.fail("/storage/", Answer(200, {}, WEIGHTS[:-10]))
    with pytest.raises(BundleError, match="wrong length") as caught:
        fetch()
    assert caught.value.exit_code == 6
    assert not list((tmp_path / "cache").rglob("*model.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_digest_is_thrown_out_of_the_cache(server: Hub, tmp_path: Path, name: str) -> None:
    right = server.repos[REPO][name]
    wrong = right[:-1] + b"?"
    server.fail("/storage/" if name.endswith("s") else name, Answer(200, {}, wrong), method="GET")
    with pytest.raises(BundleError, match=r"digest") as caught:
        fetch([name])
    assert caught.value.exit_code == 6
    assert caught.value.details["expected"] != caught.value.details["actual"]
    assert wrong not in cached_blobs(tmp_path)
    assert not list((tmp_path / "cache").glob(f"models--*/snapshots/*/{name}"))
    server.faults.clear()
    assert (fetch([name]) / name).read_bytes() == right


def test_a_file_that_went_bad_in_the_cache(server: Hub, tmp_path: Path) -> None:
    """Also what a kill between download and check would leave: the next use looks again, offline too."""
    folder = fetch()
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(BundleError, match="digest"):
        fetch(offline=True)
    assert not blob.exists()
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_cache_without_links(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no links the hub's list gives the digests; offline nobody does."""
    folder = fetch()
    path = folder / "model.safetensors"
    path.unlink()
    path.write_bytes(WEIGHTS[:-1] + b"?")
    assert hub.find(REPO, offline=True).digests["model.safetensors"] == ""
    assert fetch(offline=True) == folder
    with pytest.raises(BundleError, match="digest"):
        fetch()
    assert not path.exists()


def test_unsafe_file_names(server: Hub, tmp_path: Path) -> None:
    server.repos[REPO]["../../evil.json"] = b"{}"
    with pytest.raises(BundleError, match="unsafe path"):
        fetch()
    assert not list(tmp_path.rglob("evil.json"))


def test_connection_refused(server: Hub, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_at(monkeypatch, f"http://127.0.0.1:{port}")
    with pytest.raises(SourceError, match="the connection was refused") as caught:
        hub.find(REPO)
    assert "--offline" in caught.value.hint
    assert pauses == []


def test_name_unknown(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` never resolves (RFC 6761)."""
    point_at(monkeypatch, "http://hub.invalid")
    with pytest.raises(SourceError, match="its name is not known"):
        hub.find(REPO)


def test_no_route(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    with pytest.raises(SourceError, match="no connection"):
        hub.find(REPO)


def test_silence_is_not_waited_for_for_ever(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SourceError, match="did not answer in time"):
            hub.find(REPO)


@pytest.mark.parametrize("revision", ["../../refs", "a b", "", "/main", "a\0"])
def test_revisions_that_cannot_be(server: Hub, revision: str) -> None:
    with pytest.raises(UsageError, match="not a revision"):
        hub.find(REPO, revision)
    assert not server.requests


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "file:///etc", "http://", "http://[x"])
def test_endpoints_that_cannot_be(server: Hub, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        hub.find(REPO)


def everything(error: EdgeKitError) -> str:
    return f"{error!r} {error.message} {error.hint} {error.cause} {error.details} {error.as_dict()}"


@pytest.mark.parametrize("status", [401, 403, 404, 418, 429, 500])
def test_the_token_is_never_told(
    server: Hub, pauses: list[float], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    echo = f"you sent Bearer {TOKEN}, see https://storage/x?X-Amz-Signature=abcdef"
    server.fail("/api/models/", Answer(status, {"X-Error-Message": echo, "Content-Type": "text/plain"}, echo.encode()))
    with caplog.at_level("DEBUG", logger="edgekit"), pytest.raises(SourceError) as caught:
        hub.find(REPO)
    assert "[token]" in caught.value.cause
    assert TOKEN not in everything(caught.value) + caplog.text
    assert "abcdef" not in everything(caught.value)
    assert caught.value.__suppress_context__


def test_a_cache_that_cannot_be_written(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ResourceError, match="cannot hold") as caught:
        fetch()
    assert "HF_HUB_CACHE" in caught.value.hint
