"""Exports that are interrupted, killed, crowded or starved: the earlier bundle stays, and nothing else does.

The model is one that is built, which takes no torch and little time; one export is interrupted in a real trace. Who is
to be hit in the middle of a stage sleeps there (fixtures/sleeping), so that no signal comes too late on any machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgekit
from edgekit.bundle import manifest
from edgekit.errors import CrashError, ResourceError, UsageError
from edgekit.workbench import worker

pytestmark = pytest.mark.slow

# Who works in each stage: the command itself, or a worker for this function.
STAGES = {
    "command": "command",
    "reference": "edgekit.workbench.reference:work",
    "build": "edgekit.workbench.variants:work",
    "gate": "edgekit.workbench.gate:work",
    "verify": "edgekit.verify:work",
}
SIGNALS = [(stage, number) for stage in STAGES for number in (signal.SIGINT, signal.SIGTERM)]
PATIENCE = 300.0  # a hang is a failure, slowness is none
MODEL, TASK = "zoo:motor", "time-series-classification"
OPTIONS = ("--target", "cpu", "--precision", "fp32", "--force")
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def place(exported: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with an earlier bundle in it: `made.ek`."""
    earlier = exported("zoo:parity", task="text-classification", targets=("cpu",), precision="int8")
    (tmp_path / "out").mkdir()
    shutil.copytree(earlier, tmp_path / "out" / "made.ek")
    return tmp_path / "out"


def untouched(place: Path) -> None:
    """The earlier bundle is whole, it is the earlier one, and it is alone."""
    assert [path.name for path in place.iterdir()] == ["made.ek"]
    assert manifest.read(place / "made.ek", verify="always").task == "text-classification"


@dataclass(frozen=True)
class Sleeping:
    """Processes that sleep in one stage, as long as `file` is there."""

    stage: str
    file: Path

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(FIXTURES / "sleeping"), os.environ.get("PYTHONPATH", "")]))
        return {"PYTHONPATH": path, "SLEEPER": STAGES[self.stage], "SLEEPER_FILE": str(self.file)}

    def reach(self, process: subprocess.Popen[str]) -> int:
        """Waits until somebody sleeps, and gives its process id."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and process.poll() is None:
            if self.file.exists() and (text := self.file.read_text()):
                return int(text)
            time.sleep(0.02)
        pytest.fail(f"the export ended before its stage {self.stage!r}: {process.communicate()[1]}")

    def wake(self) -> None:
        self.file.unlink()


@contextlib.contextmanager
def exporting(
    output: Path, *more: str, model: str = MODEL, sleeping: Sleeping | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The real command, on its way, in a session of its own; whatever is left of it at the end is killed."""
    command = [sys.executable, "-m", "edgekit", "export", model, "-o", str(output), *OPTIONS, *more]
    process = subprocess.Popen(
        command,
        env=os.environ | (sleeping.environment() if sleeping else {}),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        family = descendants(process.pid)
        for pid in (process.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def reach(process: subprocess.Popen[str], words: str) -> None:
    """Read what the command says until a line has these words."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    pytest.fail(f"the export ended before {words!r}: {''.join(said)}")


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def gone(pids: list[int]) -> bool:
    """All of these processes end by themselves, soon enough."""
    end = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A14: signals


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send the signal: the command says so, and nobody of it is left."""
    family = descendants(process.pid)
    process.send_signal(number)
    _, talk = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in talk
    assert "Traceback" not in talk
    assert gone(family)


@pytest.mark.parametrize(("stage", "number"), SIGNALS)
def test_a_signal_in_any_stage(place: Path, tmp_path: Path, stage: str, number: signal.Signals) -> None:
    sleeping = Sleeping(stage, tmp_path / "asleep")
    with exporting(place / "made.ek", sleeping=sleeping) as process:
        sleeping.reach(process)
        interrupt(process, number)
    untouched(place)


def test_a_signal_while_torch_traces(place: Path) -> None:
    with exporting(place / "made.ek", "-v", model="zoo:parity") as process:
        reach(process, "trace: tracing with torch")
        interrupt(process, signal.SIGINT)
    untouched(place)


def test_stopping_and_continuing_does_no_harm(place: Path, tmp_path: Path) -> None:
    sleeping = Sleeping("reference", tmp_path / "asleep")
    with exporting(place / "made.ek", sleeping=sleeping) as process:
        sleeping.reach(process)
        process.send_signal(signal.SIGSTOP)
        sleeping.wake()
        time.sleep(0.2)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert manifest.read(place / "made.ek", verify="always").task == TASK


# A12, A10, A19: killed


def test_a_killed_export_takes_its_worker_along_and_is_swept_by_the_next(place: Path, tmp_path: Path) -> None:
    sleeping = Sleeping("reference", tmp_path / "asleep")
    with exporting(place / "made.ek", sleeping=sleeping) as process:
        family = [sleeping.reach(process), *descendants(process.pid)]
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert gone(family)
    assert manifest.read(place / "made.ek", verify="always").task == "text-classification"
    assert len(list(place.iterdir())) > 1  # what it could not clean up
    with exporting(place / "made.ek") as process:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert [path.name for path in place.iterdir()] == ["made.ek"]
    assert manifest.read(place / "made.ek", verify="always").task == TASK


def test_a_killed_worker_names_its_stage(place: Path, tmp_path: Path) -> None:
    sleeping = Sleeping("build", tmp_path / "asleep")
    with exporting(place / "made.ek", "--json", sleeping=sleeping) as process:
        os.kill(sleeping.reach(process), signal.SIGKILL)
        answer, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 7
    error = json.loads(answer)["error"]
    assert error["code"] == "EK-RESOURCE"
    assert "'build' was killed (signal 9)" in error["message"]
    untouched(place)


def test_a_worker_that_crashes_in_native_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = worker.run
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "fixtures"))

    def run(function: str, payload: object, folder: Path, **options: object) -> object:
        return real("worker_jobs:abort", {}, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "run", run)
    with pytest.raises(CrashError, match="'trace' died by signal SIGABRT"):
        edgekit.export("zoo:parity", place / "made.ek", targets=["cpu"], force=True)
    untouched(place)


def test_memory_that_runs_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is beaten; the worker's own limit is what holds."""
    monkeypatch.setattr("edgekit.workbench.plan.check_memory", lambda *_: None)
    with pytest.raises(ResourceError, match="'trace'") as caught:
        edgekit.export("zoo:parity", place / "made.ek", targets=["cpu"], force=True, memory_limit=60 << 20)
    assert caught.value.exit_code == 7
    untouched(place)


# A13: two at once


def test_the_second_of_two_is_told_at_once(place: Path, tmp_path: Path) -> None:
    sleeping = Sleeping("reference", tmp_path / "asleep")
    with exporting(place / "made.ek", sleeping=sleeping) as first:
        sleeping.reach(first)
        with exporting(place / "made.ek", "--json") as second:
            answer, _ = second.communicate(timeout=PATIENCE)
            assert second.returncode == 9
        assert json.loads(answer)["error"]["code"] == "EK-BUSY"
        assert str(first.pid) in json.loads(answer)["error"]["message"]
        sleeping.wake()
        first.communicate(timeout=PATIENCE)
        assert first.returncode == 0
    assert [path.name for path in place.iterdir()] == ["made.ek"]
    assert manifest.read(place / "made.ek", verify="always").task == TASK


# A11, A15: the place


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_known_to_be_too_small(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m"):
        with pytest.raises(ResourceError, match=r"needs .* of free space and has") as caught:
            edgekit.export("zoo:parity", tmp_path / "disk" / "made.ek", targets=["cpu"])
        assert caught.value.exit_code == 7
        assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("size", ["40k", "100k", "160k", "200k"])
def test_a_disk_that_fills_up_on_the_way(tmp_path: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every stage, whoever writes there: the estimate is beaten."""
    monkeypatch.setattr("edgekit.bundle.publish.need", lambda *_: None)
    with tmpfs(tmp_path / "disk", size):
        with pytest.raises(ResourceError) as caught:
            edgekit.export(MODEL, tmp_path / "disk" / "made.ek", targets=["cpu"], precision="fp32")
        assert caught.value.exit_code == 7
        assert "free some space" in caught.value.hint
        assert list((tmp_path / "disk").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m"):
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        with pytest.raises(UsageError, match="Read-only") as caught:
            edgekit.export("zoo:parity", tmp_path / "disk" / "made.ek", targets=["cpu"])
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["näme with\nspaces.ek", "-dash.ek"])
def test_names_that_are_odd_but_right(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = edgekit.export(MODEL, name, targets=["cpu"], precision="fp32")
    assert made.folder == Path(name)
    assert os.listdir(tmp_path) == [name]
    with edgekit.load(name) as model:
        assert len(model.classify([[1.0, 2.0, 3.0]])) == 1
