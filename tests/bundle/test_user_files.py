"""Files that a user names: what is not ours is never replaced, and nothing keeps us waiting."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from pathlib import Path

import pytest

from edgekit.bundle import safe_files, user_files
from edgekit.errors import EdgeKitError, ResourceError, UsageError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")


def refused(path: Path) -> EdgeKitError:
    """The error of writing there, which is known before anything is computed."""
    with pytest.raises(EdgeKitError) as before:
        user_files.check_output(path)
    with pytest.raises(EdgeKitError) as caught:
        user_files.save(path, b"new")
    assert caught.value.message == before.value.message
    assert caught.value.exit_code == before.value.exit_code == 2
    return caught.value


# Writing


def test_a_new_name_and_a_regular_file(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        user_files.check_output(tmp_path / "x")
        user_files.save(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "x").touch(0o600)
    user_files.save(tmp_path / "x", b"new")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_a_name_of_full_length(tmp_path: Path) -> None:
    user_files.save(tmp_path / ("é" * 127), b"new")
    assert len(os.listdir(tmp_path)) == 1


def test_a_link_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    for target in ("thesis", "nowhere", "/dev/null"):
        (tmp_path / "link").symlink_to(target)
        error = refused(tmp_path / "link")
        assert "a symbolic link" in error.message
        assert os.path.realpath(tmp_path / target) in error.hint
        (tmp_path / "link").unlink()
    assert (tmp_path / "thesis").read_text() == "mine"
    assert os.listdir(tmp_path) == ["thesis"]


def test_folders_sockets_and_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "sock"))
    assert "is a folder" in refused(tmp_path / "folder").message
    assert "it is a socket" in refused(tmp_path / "sock").message
    assert "null" in refused(tmp_path / "a\0b").message
    assert "cannot write /proc/x" in refused(Path("/proc/x")).message
    assert "Not a directory" in refused(Path("/dev/null/x")).message
    assert "mkdir -p" in refused(tmp_path / "none" / "x").hint


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, data = tmp_path / "pipe", os.urandom(1 << 20)
    os.mkfifo(pipe)
    user_files.check_output(pipe)
    with pytest.raises(UsageError, match="nobody reads the pipe"):
        user_files.save(pipe, data)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    found: list[bytes] = []

    def read() -> None:
        select.select([reader], [], [])  # a pipe that nobody has written to yet is at its end
        with os.fdopen(reader, "rb") as file:
            found.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    user_files.save(pipe, data)
    thread.join(60)
    assert found == [data]
    assert pipe.is_fifo()


def test_a_reader_that_leaves_the_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    threading.Timer(0.2, os.close, [reader]).start()
    with pytest.raises(ResourceError, match="Broken pipe"):
        user_files.save(pipe, bytes(1 << 20))


def test_devices_are_written_to() -> None:
    user_files.save(Path("/dev/null"), b"new")
    with pytest.raises(ResourceError, match="No space") as caught:
        user_files.save(Path("/dev/full"), b"new")
    assert "free some space" in caught.value.hint
    for name in ("null", "full"):
        assert stat.S_ISCHR(Path("/dev", name).lstat().st_mode)


@AS_ROOT
def test_a_device_is_not_replaced_and_a_disk_not_written_to(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    user_files.save(tmp_path / "null", b"new")
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    assert "it is a disk" in refused(tmp_path / "disk").message


def test_what_comes_to_the_name_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = safe_files.write_file

    def slow(path: Path, data: bytes) -> None:
        write(path, data)
        os.mkfifo(tmp_path / "x")

    monkeypatch.setattr(safe_files, "write_file", slow)
    with pytest.raises(UsageError, match="is a pipe"):
        user_files.save(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").is_fifo()


def test_short_writes_are_continued() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    data, found = os.urandom(300_000), list[bytes]()

    def drain() -> None:
        with os.fdopen(read, "rb") as file:
            found.append(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    user_files.write_all(write, data)
    os.close(write)
    thread.join(60)
    assert found == [data]


# Reading


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"text")
    (tmp_path / "link").symlink_to("x")
    assert user_files.read_input(tmp_path / "link", 4, "hint") == b"text"
    with pytest.raises(UsageError, match="more than 3 bytes"):
        user_files.read_input(tmp_path / "x", 3, "hint")


@pytest.mark.parametrize(
    ("name", "why"),
    [("pipe", "is a pipe"), ("/dev/zero", "is a device"), (".", "is a folder"), ("none", "No such file"),
     ("a\0b", "null")],
)  # fmt: skip
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=why) as caught:
        user_files.read_input(tmp_path / name, 4, "give a text file")
    assert caught.value.hint == "give a text file"
    assert len(os.listdir("/proc/self/fd")) == before
