from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.errors import BundleError

UNSAFE = [
    "", "/etc/passwd", "../x", "a/../x", "..", ".", "./a", "a//b", "a/", "a/.", "a\\b", "C:a", "c:/a", "file:///x",
    "a\0b", "a\nb", "a\x7f", "a.", "a ", "a. /b", "e\u0301", "\ud800", "x" * 256, "é" * 128, "x/" * 600 + "x",
]  # fmt: skip
SAFE = ["a", ".a", "-a", "a b/c", "é/日本", "a..b", "x" * 255, "cpu/model.onnx.data"]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_unsafe_paths_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="unsafe path") as caught:
        safe_files.safe_join(tmp_path, name)
    caught.value.message.encode("ascii")  # can be printed anywhere


@pytest.mark.parametrize("name", SAFE)
def test_safe_paths_are_accepted(name: str, tmp_path: Path) -> None:
    path = tmp_path.joinpath(*name.split("/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"here")
    assert safe_files.safe_join(tmp_path, name) == path
    with safe_files.open_regular(tmp_path, name) as file:
        assert file.read() == b"here"


@given(st.text(alphabet=st.characters() | st.sampled_from("./\\:~ "), max_size=40))
def test_no_accepted_path_leaves_the_root(name: str) -> None:
    try:
        parts = safe_files.parts(name)
    except BundleError:
        return
    assert "/".join(parts) == name
    assert os.path.normpath(os.path.join("/base", name)) == "/base/" + name


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "sock"))  # an absolute one may be too long for a socket's address
    for name, what in (("folder", "a folder"), ("pipe", "a pipe"), ("sock", "a socket"), ("none", "missing")):
        with pytest.raises(BundleError, match=what):
            safe_files.safe_join(tmp_path, name)
    with pytest.raises(BundleError, match="a device"):
        safe_files.safe_join(Path("/dev"), "null")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be opened: Not a directory"):
        safe_files.safe_join(tmp_path, "file/x")


def test_links_are_refused_below_the_root_and_followed_to_it(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("secret")
    (root / "plain").write_text("plain")
    (root / "link").symlink_to(outside / "secret")
    (root / "inside").symlink_to("plain")
    (root / "folder").symlink_to(outside)
    (tmp_path / "alias").symlink_to(root)
    for name in ("link", "inside", "folder/secret"):
        with pytest.raises(BundleError, match="symbolic link") as caught:
            safe_files.open_regular(root, name)
        assert "cp -rL" in caught.value.hint
    assert safe_files.safe_join(tmp_path / "alias", "plain").read_text() == "plain"


def test_a_hard_link_is_refused_unless_a_digest_covers_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.link(tmp_path / "secret", tmp_path / "weights")
    with pytest.raises(BundleError, match="hard link"):
        safe_files.open_regular(tmp_path, "weights")
    with safe_files.open_regular(tmp_path, "weights", hard_links=True) as file:
        assert file.read() == b"secret"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a/b", "a", "a/none", "none/b"):
        try:
            safe_files.safe_join(tmp_path, name)
        except BundleError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_walk_names_all_and_follows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "d").touch()
    (tmp_path / "up").symlink_to(tmp_path)
    assert sorted(safe_files.walk(tmp_path)) == ["a/b/c", "d", "up"]
    with pytest.raises(BundleError, match="cannot be listed"):
        list(safe_files.walk(tmp_path / "none"))
    monkeypatch.setattr(limits, "FILES", 3)
    with pytest.raises(BundleError, match="more than 3"):
        list(safe_files.walk(tmp_path))


def test_digest_and_write(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    safe_files.write_file(tmp_path / "x", data)
    with safe_files.open_regular(tmp_path, "x") as file:
        assert safe_files.sha256(file) == hashlib.sha256(data).hexdigest()


def test_replace_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    safe_files.replace_file(tmp_path / "x", b"old")
    safe_files.replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        safe_files.replace_file(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (999_960_000, "1.0 GB"),
     (3 * 10**12, "3.0 TB")],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert safe_files.size_text(size) == text
