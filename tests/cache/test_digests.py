from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from stub_export import fill, make_graph

from edgekit.bundle import manifest, safe_files
from edgekit.cache import digests
from edgekit.errors import BundleError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekit" / "verified"


@pytest.fixture(scope="module")
def seed_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the graph is made with it")
    return make_graph(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def folder(tmp_path: Path, seed_graph: Path) -> Path:
    """A good bundle."""
    made = tmp_path / "stub.ek"
    made.mkdir()
    fill(made, seed_graph, "hello")
    return made


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were digested, by name, from here on."""
    names: list[str] = []
    sha256 = safe_files.sha256

    def watch(file: Any) -> str:
        names.append(Path(os.readlink(f"/proc/self/fd/{file.fileno()}")).name)
        return sha256(file)

    monkeypatch.setattr(safe_files, "sha256", watch)
    return names


def test_once_is_remembered_until_a_file_changes(
    folder: Path, cache: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.read(folder)
    assert sorted(hashed) == ["model.onnx", "tokenizer.json", "weights.bin"]
    assert not cache.exists()  # written just now: the clock could not tell a second change from the first
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    manifest.read(folder)
    hashed.clear()
    manifest.read(folder)
    assert hashed == []
    manifest.read(folder, verify="always")
    assert len(hashed) == 3
    hashed.clear()
    manifest.read(folder, verify="never")
    assert hashed == []

    token = folder / "tokenizer.json"
    times = token.stat()
    token.write_text("hallo")  # the same size
    os.utime(token, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same time of writing: only ctime tells
    with pytest.raises(BundleError, match=r"tokenizer\.json has changed: its SHA-256"):
        manifest.read(folder)
    assert hashed == ["tokenizer.json"]


def test_a_memory_that_is_torn_or_closed_does_no_harm(
    folder: Path, cache: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    manifest.read(folder)
    (note,) = cache.iterdir()
    for torn in (b"", note.read_bytes()[:-9], b"\xff", b'{"a": 1}', b"[]"):
        note.write_bytes(torn)
        hashed.clear()
        manifest.read(folder)
        assert len(hashed) == 3
    note.unlink()
    cache.rmdir()
    cache.write_text("not a folder")
    hashed.clear()
    manifest.read(folder)
    manifest.read(folder)
    assert len(hashed) == 6


def test_without_a_home_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/nowhere")
    assert digests.cache_folder() == Path("/nowhere/.cache/edgekit")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert digests.cache_folder() is None
    manifest.read(folder)


@pytest.mark.slow
def test_a_file_at_rest_is_remembered(folder: Path, cache: Path) -> None:
    time.sleep(digests.SETTLED_NS / 1e9 + 0.1)
    manifest.read(folder)
    assert len(list(cache.iterdir())) == 1
