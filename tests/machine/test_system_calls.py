"""EdgeKit on systems that lack Linux's calls: without them it imports, loads, runs and verifies what it does here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import portable_calls
import pytest
import small_bundles

from edgekit.bundle import safe_files
from edgekit.cache import digests
from edgekit.errors import BundleError
from edgekit.machine import cpu_features, device, system_calls

FIXTURES = Path(portable_calls.__file__).parent
ROOT = FIXTURES.parents[1]


@pytest.fixture(params=["windows", "macos"])
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def elsewhere(system: str, call: str, *arguments: object, cache: Path | None = None) -> Any:
    """What the function of portable_calls.py returns in a process that stands for the other system."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(FIXTURES)))}
    environment |= {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    words = [sys.executable, str(FIXTURES / "other_system.py"), system, call, *map(str, arguments)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_can_be_imported(system: str) -> None:
    assert elsewhere(system, "modules") == []


def test_a_bundle_is_loaded_run_and_verified(system: str, tmp_path: Path) -> None:
    folder = small_bundles.make(tmp_path / "small.ek", goldens=True)
    there = elsewhere(system, "embeds", folder, cache=tmp_path / "there")
    assert all(there["checks"])
    assert there["vectors"] == portable_calls.embeds(str(folder))["vectors"]
    assert "proven" in there["kept"]


@pytest.mark.slow
def test_a_language_model_says_the_same(system: str, exported: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "speaker.ek"
    shutil.copytree(exported("zoo:speaker", targets=["cpu"]), folder)
    there = elsewhere(system, "generates", folder, cache=tmp_path / "there")
    assert there == portable_calls.generates(str(folder))
    kept = [path.suffix for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert ".int8" in kept  # prepared weights, as on Linux
    assert not [path for path in (tmp_path / "there").rglob(".*") if path.is_file()]  # and nothing unfinished


def test_commands(system: str, tmp_path: Path) -> None:
    folder = small_bundles.make(tmp_path / "small.ek", goldens=True)
    more = (f"inspect {folder}", "list targets", "doctor")
    assert elsewhere(system, "commands", folder, *more) == [0] * 5


def test_a_system_without_process_groups_measures_nothing(tmp_path: Path) -> None:
    folder = small_bundles.make(tmp_path / "small.ek", goldens=True)
    assert elsewhere("windows", "commands", folder, f"bench {folder} --quick") == [0, 0, 8]


def test_what_is_not_a_plain_file_is_refused(system: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    os.link(tmp_path / "real" / "file", tmp_path / "twin")
    (tmp_path / "link").symlink_to("real/file")
    (tmp_path / "folder").symlink_to("real")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
        why = elsewhere(system, "refusals", tmp_path, "pipe", "real", "twin", "link", "folder/file", "socket", "none")
    opened, named = why[:7], why[7:]
    expected = ("a pipe", "a folder", "hard link", "symbolic link", "folder is a symbolic link", "a socket", "missing")
    assert all(words in message for words, message in zip(expected, opened, strict=True)), opened
    assert "a pipe" in named[0]
    assert "a folder" in named[1]
    assert named[2:5] == ["", "", ""]  # a user may name a link
    assert named[6] == "FileNotFoundError"


def test_locks(system: str, tmp_path: Path) -> None:
    assert elsewhere(system, "locks", tmp_path) == ["busy", "BusyError", "content"]


def test_a_system_without_process_groups_exports_nothing(tmp_path: Path) -> None:
    why = elsewhere("windows", "exports", tmp_path)
    assert why.startswith("8 use Linux or macOS")
    assert list(tmp_path.iterdir()) == []


# Parts of it, in this process


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.delattr(os, name)


def test_a_file_that_is_exchanged_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By path: the file, and a folder above it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    original = os.open

    def exchanging(swap: Sequence[Path]) -> Callable[..., int]:
        def opened(path: Any, *rest: Any, **options: Any) -> int:
            descriptor = original(path, *rest, **options)
            swap[0].rename(tmp_path / "old")
            swap[1].rename(swap[0])
            return descriptor

        return opened

    for old, new in ((("a", "file"), ("b", "file")), (("a",), ("b",))):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", exchanging((tmp_path.joinpath(*old), tmp_path.joinpath(*new))))
            with pytest.raises(BundleError):
                safe_files.open_regular(tmp_path, "a/file")
        (tmp_path / "old").rename(tmp_path / "b" if old == ("a",) else tmp_path / "b" / "file")


def test_a_junction_of_windows_is_a_link(tmp_path: Path) -> None:
    class Junction:
        st_mode, st_reparse_tag = 0o040777, 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT

    class InTheCloud:
        st_mode, st_reparse_tag = 0o100666, 0x9000001A  # IO_REPARSE_TAG_CLOUD: a file that is fetched when it is read

    assert system_calls.is_link(Junction())  # type: ignore[arg-type]
    assert not system_calls.is_link(InTheCloud())  # type: ignore[arg-type]
    assert not system_calls.is_link(tmp_path.stat())


def test_nothing_is_noted_where_no_time_tells_of_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.Memory(tmp_path)._path is not None
    monkeypatch.setattr(sys, "platform", "win32")
    assert digests.Memory(tmp_path)._path is None


def test_stand_ins_do_what_the_calls_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (1 << 20) + 3

    def parts() -> tuple[bytes, bytes, int]:
        with open(tmp_path / "file", "w+b") as file:
            system_calls.allocate(file.fileno(), size)
            zeros = os.fstat(file.fileno()).st_size
            file.seek(0)
            file.write(b"0123456789")
            file.flush()
            held = system_calls.unnamed_file()
            os.write(held, b"abc")
            found = system_calls.read_at(held, 10, 0)
            os.close(held)
            return system_calls.read_at(file.fileno(), 3, 4), found, zeros

    assert parts() == (b"456", b"abc", size)
    without(monkeypatch, "posix_fallocate", "pread", "memfd_create")
    assert parts() == (b"456", b"abc", size)


def test_a_whole_file_replaces_or_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with safe_files.whole_file(path) as file:
        file.write(b"first")
    unfinished = pytest.raises(KeyboardInterrupt)
    with unfinished, safe_files.whole_file(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_features_of_apple_silicon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an M1 answers sysctl: no i8mm, no bf16."""
    values = {"hw.optional.AdvSIMD": 1, "hw.optional.arm.FEAT_FP16": 1, "hw.optional.arm.FEAT_DotProd": 1}
    answers = {name: value.to_bytes(4, "little") for name, value in (values | {"hw.optional.arm.FEAT_I8MM": 0}).items()}
    answers["machdep.cpu.brand_string"] = b"Apple M1\0"

    def sysctlbyname(name: bytes, value: Any, size: Any, new: None, length: Any) -> int:
        answer = answers.get(name.decode())
        if answer is None:
            return -1
        value[: len(answer)] = answer
        size._obj.value = len(answer)
        return 0

    monkeypatch.setattr(cpu_features, "c_function", lambda name: sysctlbyname if name == "sysctlbyname" else None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cpu_features.read(Path("/"), "arm64") == {"asimd", "asimdhp", "asimddp"}
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert device.cpu_model(Path("/none")) == "Apple M1"
    monkeypatch.setattr(cpu_features, "c_function", lambda name: None)
    assert cpu_features.read(Path("/"), "arm64") == set()
