from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stub_export import command, export_to, fill, make_graph, tag_of

from edgekit.bundle import publish, safe_files
from edgekit.errors import BundleError, BusyError, UsageError


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


def stub(*arguments: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def paused(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The stub, waiting with its work written."""
    with stub(*arguments, "--pause") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


# It works, and leaves nothing else


def test_a_new_bundle_and_its_successor(out: Path, seed: Path) -> None:
    target = out / "m.ek"
    export_to(target, seed, "old")
    assert tag_of(target) == "old"
    export_to(target, seed, "new", force=True)
    assert tag_of(target) == "new"
    assert os.listdir(out) == ["m.ek"]


@pytest.mark.parametrize("name", ["a b", "-rf", "ünï", "new\nline", "dots..", "x" * 230])
def test_odd_names(out: Path, seed: Path, name: str) -> None:
    for force in (False, True):
        export_to(out / name, seed, "new", force=force)
        assert tag_of(out / name) == "new"
    assert os.listdir(out) == [name]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o644, 0o755)])
def test_permissions_follow_the_umask(out: Path, seed: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with publish.into(out / "m.ek") as work:
            assert work.stat().st_mode & 0o777 == 0o700
            fill(work, seed, "new")
            (work / "tokenizer.json").chmod(0o600)  # as tempfile makes them
    finally:
        os.umask(before)
    for path in (out / "m.ek").rglob("*"):
        assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path
    assert (out / "m.ek").stat().st_mode & 0o777 == folder


def test_an_empty_folder_is_replaced_only_by_force(out: Path, seed: Path) -> None:
    (out / "m.ek").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export_to(out / "m.ek", seed, "new")
    export_to(out / "m.ek", seed, "new", force=True)
    assert tag_of(out / "m.ek") == "new"


# A15: what must not be replaced


def test_an_existing_bundle_needs_force(out: Path, seed: Path) -> None:
    export_to(out / "m.ek", seed, "old")
    with pytest.raises(UsageError, match="exists") as caught:
        export_to(out / "m.ek", seed, "new")
    assert "--force" in caught.value.hint
    assert tag_of(out / "m.ek") == "old"
    assert os.listdir(out) == ["m.ek"]


def _work(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def _work_with_a_link(path: Path) -> None:
    _work(path)
    (path / "edgekit.json").symlink_to("thesis.txt")


def _work_with(manifest: str) -> Callable[[Path], None]:
    def place(path: Path) -> None:
        _work(path)
        (path / "edgekit.json").write_text(manifest)

    return place


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (_work_with("{}"), "a folder, but not a bundle"),
        (_work_with("not JSON"), "a folder, but not a bundle"),
        (_work_with('{"format": 2, "files": []}'), "a folder, but not a bundle"),
        (_work_with('{"format": 2, "files": {}}'), "files that do not belong to the bundle: 'thesis.txt'"),
        (lambda path: path.write_text("mine"), "a file"),
        (lambda path: path.symlink_to(path.parent.parent), "a symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
        (_work, "a folder, but not a bundle"),
        (_work_with_a_link, "a folder, but not a bundle"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_only_bundles_are_replaced(
    out: Path, seed: Path, place: Callable[[Path], object], what: str, force: bool
) -> None:
    place(out / "mine")
    before = sorted(safe_files.walk(out.parent))
    with pytest.raises(UsageError, match=what):
        export_to(out / "mine", seed, "new", force=force)
    assert sorted(safe_files.walk(out.parent)) == before


def test_a_bundle_with_other_files_is_not_replaced(out: Path, seed: Path) -> None:
    target = out / "m.ek"
    export_to(target, seed, "old")
    (target / "cpu" / "thesis.txt").write_text("mine")
    (target / "notes\udcff").touch()
    with pytest.raises(UsageError, match=r"do not belong to the bundle: 'cpu/thesis.txt' and 1 more") as caught:
        export_to(target, seed, "new", force=True)
    assert caught.value.details["files"] == ["cpu/thesis.txt", "notes\udcff"]
    assert (target / "cpu" / "thesis.txt").read_text() == "mine"
    (target / "cpu" / "thesis.txt").unlink()
    (target / "notes\udcff").unlink()
    export_to(target, seed, "new", force=True)
    assert tag_of(target) == "new"


@pytest.mark.parametrize("harm", ["cut", "gone", "newer"])
def test_a_damaged_bundle_is_replaced(out: Path, seed: Path, harm: str) -> None:
    """What is wrong with its files, or with its format, is what a new export mends."""
    target = out / "m.ek"
    export_to(target, seed, "old")
    if harm == "newer":
        text = (target / "edgekit.json").read_text()
        (target / "edgekit.json").write_text(re.sub('"format": [0-9]+', '"format": 99', text))
    elif harm == "cut":
        (target / "cpu" / "model.onnx").write_bytes(b"")
    else:
        (target / "cpu" / "model.onnx").unlink()
    export_to(target, seed, "new", force=True)
    assert tag_of(target) == "new"


def test_a_mount_point_is_not_replaced(out: Path, seed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_to(out / "m.ek", seed, "old")
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(UsageError, match="a mount point"):
        export_to(out / "m.ek", seed, "new", force=True)
    assert tag_of(out / "m.ek") == "old"


@pytest.mark.parametrize("name", ["/", ".", "..", "m/..", "", "~", "../out", ".m.ek-tmp-0123456789abcdef", "x" * 240])
def test_places_that_are_no_place(out: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    monkeypatch.setenv("HOME", str(out.parent / "home"))
    (out.parent / "home").mkdir()
    with (
        pytest.raises(UsageError, match=r"cannot be the name|is too long"),
        publish.into(Path(name).expanduser(), force=True),
    ):
        pytest.fail("entered")
    assert os.listdir(out) == []


def test_a_parent_that_is_not_there(out: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught, publish.into(out / "none" / "m.ek"):
        pytest.fail("entered")
    assert "mkdir -p" in caught.value.hint


def test_what_appears_meanwhile_is_not_replaced(out: Path, seed: Path) -> None:
    target = out / "m.ek"

    def meanwhile(force: bool) -> None:
        with publish.into(target, force=force) as work:
            fill(work, seed, "new")
            target.mkdir()
            (target / "thesis.txt").write_text("mine")

    for force in (False, True):
        with pytest.raises(UsageError, match="not a bundle"):
            meanwhile(force)
        assert (target / "thesis.txt").read_text() == "mine"
        assert os.listdir(out) == ["m.ek"]
        shutil.rmtree(target)


def test_what_comes_out_is_looked_at_before_it_is_deleted(
    out: Path, seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = out / "m.ek"
    export_to(target, seed, "old")
    rename = publish._rename

    def slip_in(work: Path, target: Path, how: int) -> None:
        """Somebody puts a folder of work there between the last look and the exchange."""
        if how == publish._EXCHANGE and not (out / "away").exists():
            target.rename(out / "away")
            target.mkdir()
            (target / "thesis.txt").write_text("mine")
        rename(work, target, how)

    monkeypatch.setattr(publish, "_rename", slip_in)
    with pytest.raises(UsageError, match="not a bundle"):
        export_to(target, seed, "new", force=True)
    assert (target / "thesis.txt").read_text() == "mine"
    assert sorted(os.listdir(out)) == ["away", "m.ek"]


def test_links_in_the_work_are_not_published(out: Path) -> None:
    with pytest.raises(BundleError, match="symbolic link"), publish.into(out / "m.ek") as work:
        (work / "weights").symlink_to("/etc/hostname")
    assert os.listdir(out) == []


# A14: exceptions and signals


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_after_an_exception(out: Path, seed: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with publish.into(out / "m.ek", force=True) as work:
            fill(work, seed, "new")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(out) == []
    export_to(out / "m.ek", seed, "old")
    with pytest.raises(error):
        fail()
    assert os.listdir(out) == ["m.ek"]
    assert tag_of(out / "m.ek") == "old"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(out: Path, seed: Path, number: int, code: int) -> None:
    with paused(out / "m.ek", seed, "new") as process:
        process.send_signal(number)
        assert process.wait(300) == code
    assert os.listdir(out) == []


def test_a_killed_writer_is_swept(out: Path, seed: Path) -> None:
    export_to(out / "m.ek", seed, "old")
    with paused(out / "m.ek", seed, "new", "--force") as process:
        process.kill()
        process.wait(300)
    assert len(os.listdir(out)) == 3  # the bundle, the lock and the work
    assert tag_of(out / "m.ek") == "old"
    (out / ".m.ek.ek-tmp-x.ek-tmp-0123456789abcdef").mkdir()  # the work of a writer of `m.ek.ek-tmp-x`
    export_to(out / "m.ek", seed, "newer", force=True)
    assert tag_of(out / "m.ek") == "newer"
    assert sorted(os.listdir(out)) == [".m.ek.ek-tmp-x.ek-tmp-0123456789abcdef", "m.ek"]


def test_what_cannot_be_swept_is_a_warning(out: Path, seed: Path, caplog: pytest.LogCaptureFixture) -> None:
    (out / ".m.ek.ek-tmp-0123456789abcdef").symlink_to(out.parent)  # rmtree refuses to follow it
    export_to(out / "m.ek", seed, "new")
    assert "could not be removed" in caplog.text
    assert tag_of(out / "m.ek") == "new"
    assert out.parent.is_dir()


# A13: two at once


def test_the_second_writer_is_told_who_writes(out: Path, seed: Path) -> None:
    with paused(out / "m.ek", seed, "new") as process:
        with pytest.raises(BusyError, match=f"written by process {process.pid}") as caught:
            export_to(out / "m.ek", seed, "mine", force=True)
        assert caught.value.exit_code == 9
        export_to(out / "other.ek", seed, "mine")
        process.terminate()
        process.wait(300)
    export_to(out / "m.ek", seed, "mine")
    assert sorted(os.listdir(out)) == ["m.ek", "other.ek"]


def test_a_lock_without_a_pid(out: Path, seed: Path) -> None:
    with (out / ".m.ek.ek-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="written by another process"):
            export_to(out / "m.ek", seed, "mine")
    export_to(out / "m.ek", seed, "mine")


def test_a_file_system_without_locks(out: Path, seed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match="No locks available"):
        export_to(out / "m.ek", seed, "new")
    assert os.listdir(out) == []


def test_a_lock_that_was_removed_is_not_the_lock(out: Path, seed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our open and our flock the last owner unlinks the file: to hold it then would exclude nobody."""
    flock, lock, seen = fcntl.flock, out / ".m.ek.ek-lock", []

    def late(descriptor: int, how: int) -> None:
        if len(seen) < 2:
            lock.unlink()
            if len(seen) == 1:
                lock.touch()  # and another writer has made a new one
        seen.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    export_to(out / "m.ek", seed, "new")
    assert len(seen) == 3
    assert os.listdir(out) == ["m.ek"]


@pytest.mark.slow
def test_two_writers_and_two_readers(out: Path, seed: Path) -> None:
    target = out / "m.ek"
    export_to(target, seed, "old")
    with contextlib.ExitStack() as running:
        readers = [running.enter_context(stub(target, seed, "-", "--read")) for _ in range(2)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        writers = [running.enter_context(stub(target, seed, tag, "--force", "--rounds", 20)) for tag in ("a", "b")]
        for writer in writers:
            assert (writer.communicate(timeout=120)[1], writer.returncode) == ("", 0)
        for reader in readers:
            reader.send_signal(signal.SIGUSR1)
            count, errors = reader.communicate(timeout=300)
            assert (errors, reader.returncode) == ("", 0)
            assert int(count) > 5
    assert tag_of(target) in ("a-19", "b-19")
    assert os.listdir(out) == ["m.ek"]


# Where renameat2 is missing


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(old: Path, new: Path, flags: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(publish, "_renameat2", missing)


@pytest.mark.usefixtures("old_kernel")
def test_without_renameat2(out: Path, seed: Path) -> None:
    export_to(out / "m.ek", seed, "old")
    with pytest.raises(UsageError, match="exists"):
        export_to(out / "m.ek", seed, "new")
    export_to(out / "m.ek", seed, "new", force=True)
    assert tag_of(out / "m.ek") == "new"
    assert os.listdir(out) == ["m.ek"]


@pytest.mark.usefixtures("old_kernel")
def test_without_renameat2_the_gap_is_closed(out: Path, seed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = out / "m.ek"
    export_to(target, seed, "old")
    rename = Path.rename

    def interrupted(self: Path, new: Path) -> Path:
        if ".ek-tmp-" in self.name:
            raise KeyboardInterrupt
        return rename(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_to(target, seed, "new", force=True)
    assert tag_of(target) == "old"
    assert os.listdir(out) == ["m.ek"]

    target.rename(out / ".m.ek.ek-old-0123456789abcdef")  # killed there instead
    with pytest.raises(UsageError, match="exists"):
        export_to(target, seed, "new")
    assert tag_of(target) == "old"
    export_to(target, seed, "new", force=True)
    assert os.listdir(out) == ["m.ek"]


def test_renameat2_is_looked_for(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="no renameat2"):
        publish._renameat2(out, out, 0)
