"""Publishing on disks that are full, fail or are pulled out: each system call, failing or killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_export import command, export_to, make_graph, tag_of

from edgekit.bundle import publish
from edgekit.errors import ResourceError, UsageError


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the graph is made with it")
    return make_graph(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to publish in: what is in it at the end is all that publishing left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# A11, A15: disks


def test_need(out: Path) -> None:
    publish.need(out, 1)
    with pytest.raises(ResourceError, match=r"needs 1\.0 TB of free space and has|5000\.0 TB") as caught:
        publish.need(out, 5 * 10**15)
    assert caught.value.details["needed"] == 5 * 10**15
    assert isinstance(caught.value.details["free"], int)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, ResourceError, "needs more than"),
        (errno.EDQUOT, ResourceError, "needs more than"),
        (errno.EFBIG, ResourceError, "needs more than"),
        (errno.EIO, ResourceError, "a disk error"),
        (errno.EACCES, UsageError, "Permission denied"),
        (errno.EROFS, UsageError, "Read-only"),
        (errno.ENOLCK, UsageError, "No locks"),
        (errno.ENOENT, FileNotFoundError, "some/file"),
    ],
)
def test_errors_of_the_disk_are_explained(out: Path, code: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught, publish.into(out / "m.ek"):
        raise OSError(code, os.strerror(code), "some/file")
    assert "some/file" in str(caught.value)
    assert os.listdir(out) == []


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_mount_point_is_not_replaced(out: Path, seed: Path) -> None:
    with tmpfs(out / "m.ek", "1m"), pytest.raises(UsageError, match="a mount point"):
        export_to(out / "m.ek", seed, "new", force=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(out: Path, seed: Path) -> None:
    with tmpfs(out, "64k"):  # sixteen pages
        export_to(out / "m.ek", seed, "old")

        def too_much() -> None:
            with publish.into(out / "m.ek", force=True) as work:
                (work / "large").write_bytes(bytes(100_000))

        for _ in range(5):
            with pytest.raises(ResourceError, match="No space left") as caught:
                too_much()
            assert caught.value.exit_code == 7
            assert 0 < int(str(caught.value.details["free"])) < 65536
            assert os.listdir(out) == ["m.ek"]
        assert tag_of(out / "m.ek") == "old"
        export_to(out / "m.ek", seed, "new", force=True)
        assert tag_of(out / "m.ek") == "new"


# A11, A12: every system call, failing or killed

CALLS = "openat,mkdir,write,ftruncate,pwrite64,flock,chmod,fchmod,fsync,rename,renameat2,unlink,unlinkat,rmdir"


@pytest.fixture(scope="module")
def strace() -> list[str]:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run([found, "-f", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")
    return [found, "-f", "-qq"]


def environment(tmp_path: Path) -> dict[str, str]:
    """One in which Python makes the same calls each time."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "XDG_CACHE_HOME": str(tmp_path / "c")}


def places(strace: list[str], program: list[str], env: dict[str, str], log: Path) -> dict[str, range]:
    """For each system call: which of its calls, counted from 1, come after the lock is opened."""
    subprocess.run([*strace, "-o", log, "-e", f"trace={CALLS}", *program], env=env, check=True, capture_output=True)
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    begun = False
    for line in log.read_text().splitlines():
        found = re.match(r"\d+ +(\w+)\(", line)
        if found is None:
            continue
        begun = begun or ".ek-lock" in line
        count[found[1]] = count.get(found[1], 0) + 1
        if begun:
            first.setdefault(found[1], count[found[1]])
    return {name: range(at, count[name] + 1) for name, at in first.items()}


def spread(numbers: range, most: int) -> list[int]:
    """At most so many of them, the first and the last included."""
    if len(numbers) <= most:
        return list(numbers)
    return sorted({numbers[round(index * (len(numbers) - 1) / (most - 1))] for index in range(most)})


def test_all_is_on_the_disk_before_the_rename(strace: list[str], out: Path, tmp_path: Path, seed: Path) -> None:
    target, log = out / "m.ek", tmp_path / "log"
    program = command(target, seed, "new")
    subprocess.run([*strace, "-y", "-o", log, "-e", "trace=fsync,renameat2", *program], check=True)
    calls = log.read_text().splitlines()
    (rename,) = (number for number, call in enumerate(calls) if "renameat2(" in call)
    synced = [re.findall(r"fsync\(\d+<(.*)>\)", call) for call in calls]
    before = {path for paths in synced[:rename] for path in paths}
    after = {path for paths in synced[rename:] for path in paths}
    (work,) = (path for path in before if path.endswith(".ek-tmp-" + path[-16:]))
    inside = ("", "/cpu", "/cpu/model.onnx", "/cpu/weights.bin", "/tokenizer.json", "/edgekit.json", "/edgekit.sha256")
    assert before == {work + path for path in inside}
    assert after == {str(out)}


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replace"])
def test_killed_at_any_system_call(strace: list[str], out: Path, tmp_path: Path, seed: Path, existing: bool) -> None:
    target, env = out / "m.ek", environment(tmp_path)
    program = command(target, seed, "new", "--force")

    def start_over() -> None:
        shutil.rmtree(out)
        out.mkdir()
        if existing:
            export_to(target, seed, "old")

    start_over()
    ranges = places(strace, program, env, tmp_path / "log")
    assert {"openat", "mkdir", "write", "fsync", "renameat2", "unlink"} <= set(ranges)
    seen = set()
    for call, numbers in ranges.items():
        for number in spread(numbers, 5):
            start_over()
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
            done = subprocess.run([*strace, "-o", "/dev/null", *inject, *program], env=env, capture_output=True)
            assert done.returncode == -signal.SIGKILL, (call, number)
            tag = tag_of(target)
            assert tag in ("new", "old" if existing else None), (call, number)
            seen.add(tag)
            export_to(target, seed, "next", force=True)
            assert tag_of(target) == "next"
            assert os.listdir(out) == ["m.ek"], (call, number)
    assert len(seen) == 2  # some were killed before the rename, some after


@pytest.mark.slow
def test_failing_at_any_system_call(strace: list[str], out: Path, tmp_path: Path, seed: Path) -> None:
    target, env = out / "m.ek", environment(tmp_path)
    program = command(target, seed, "new", "--force")
    export_to(target, seed, "old")
    ranges = places(strace, program, env, tmp_path / "log")
    codes = {
        "ENOSPC": ("write", "mkdir", "openat"),
        "EIO": ("fsync",),
        "EACCES": ("openat", "renameat2"),
        "EINTR": ("write",),
    }
    for error, calls in codes.items():
        for call in calls:
            for number in spread(ranges[call], 5):
                shutil.rmtree(out)
                out.mkdir()
                export_to(target, seed, "old")
                inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
                done = subprocess.run([*strace, "-o", "/dev/null", *inject, *program], env=env, capture_output=True)
                where = call, error, number, done.stderr.decode()
                if error == "EINTR":  # Python tries again
                    assert (done.returncode, tag_of(target)) == (0, "new"), where
                else:
                    assert done.returncode in (0, 2, 6, 7), where
                    assert tag_of(target) in ("old", "new"), where
                    assert (tag_of(target) == "new") or done.returncode != 0, where
                # Only where the sweeping up itself was refused may something be left, and then the next one sweeps.
                assert os.listdir(out) == ["m.ek"] or call == "openat", where
                export_to(target, seed, "next", force=True)
                assert os.listdir(out) == ["m.ek"], where
