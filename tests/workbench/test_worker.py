from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.errors import CrashError, ResourceError, VerificationError
from edgekit.workbench import worker


@pytest.fixture(autouse=True)
def jobs_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "fixtures"))


def run(name: str, folder: Path, **payload: object) -> object:
    return worker.run(f"worker_jobs:{name}", payload, folder, stage="trial")


def test_result_and_progress_come_home(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    found = worker.run(
        "worker_jobs:echo",
        {"a": [1, None]},
        tmp_path,
        stage="trial",
        progress=lambda stage, what: said.append((stage, what)),
    )
    assert found == {"a": [1, None]}
    assert said == [("trial", "working")]
    assert not (tmp_path / worker.LOG).exists()


def test_what_exporters_note_comes_home_as_progress(tmp_path: Path) -> None:
    notes: list[tuple[str, str]] = []
    worker.run(
        "worker_jobs:noting", {}, tmp_path, stage="trial", progress=lambda stage, what: notes.append((stage, what))
    )
    assert notes == [("trial", "truncation: ignored")]


def test_what_libraries_print_does_not_disturb(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("noisy", tmp_path) == "done"
    assert capfd.readouterr() == ("", "")


def test_an_error_keeps_its_type_and_its_details(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="two differs from three") as caught:
        run("fail", tmp_path)
    assert caught.value.hint == "count again"
    assert caught.value.details == {"tensor": "x"}


@pytest.mark.parametrize(("name", "how"), [("abort", "SIGABRT"), ("bug", "exit status 1")])
def test_a_death_names_the_stage_and_how(tmp_path: Path, name: str, how: str) -> None:
    with pytest.raises(CrashError, match=f"'trial' died .*{how}") as caught:
        run(name, tmp_path)
    assert name == "abort" or "our own mistake" in caught.value.cause


def test_a_kill_likely_means_memory(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"'trial' was killed \(signal 9\)"):
        run("killed", tmp_path)


def test_a_worker_that_died_before_it_was_told_is_ended_all_the_same(tmp_path: Path) -> None:
    process = worker.start("worker_jobs:echo", tmp_path)
    process.kill()
    process.wait()
    assert process.stdin is not None
    with pytest.raises(BrokenPipeError):
        process.stdin.write(b"{}\n" * 10_000)
    worker.end(process)
    assert process.stdin.closed
    assert process.stdout is not None
    assert process.stdout.closed


def test_memory_limit_is_the_workers_own(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="out of memory in stage 'trial' within 256 MiB"):
        worker.run("worker_jobs:eat", {"bytes": 1 << 30}, tmp_path, stage="trial", memory_limit=256 << 20)
    assert run("eat", tmp_path, bytes=1 << 20) == 1 << 20


def test_a_time_limit_ends_the_worker_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(ResourceError, match="stage 'trial' did not end within 5 seconds") as caught:
        worker.run("worker_jobs:children", {"pids": str(pids)}, tmp_path, stage="trial", time_limit=5)
    assert "--time-limit" in caught.value.hint
    for pid in map(int, pids.read_text().split() if pids.exists() else ()):  # a slow machine never came to them
        _wait(lambda pid=pid: not _alive(pid))  # type: ignore[misc]


def test_a_worker_within_its_time(tmp_path: Path) -> None:
    for limit in (300, 1e300):
        assert worker.run("worker_jobs:echo", {}, tmp_path, stage="trial", time_limit=limit) == {}


@pytest.mark.parametrize("job", ["openblas_out_of_memory", "library_out_of_memory"])
def test_libraries_say_out_of_memory_in_their_own_ways(job: str, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="out of memory"):
        run(job, tmp_path)


def test_torch_says_out_of_memory_as_a_runtime_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="out of memory"):
        run("torch_out_of_memory", tmp_path)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("open_many_files", "too many open files in stage 'trial'"),
        ("write_past_the_limit", "a file became larger than this process may write in stage 'trial'"),
        ("numpy_past_the_limit", "a file became larger than this process may write in stage 'trial'"),
    ],
)
def test_limits_of_the_system_are_resources(job: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=message) as caught:
        run(job, tmp_path)
    assert "ulimit" in caught.value.hint


def test_environment_is_offline_and_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_tr0ub4dor")
    monkeypatch.setenv("SOME_API_KEY", "tr0ub4dor")
    found = run("environment", tmp_path)
    assert isinstance(found, dict)
    assert "tr0ub4dor" not in " ".join(found.values())
    assert found["HF_HUB_OFFLINE"] == "1"


def test_nothing_outlives_the_parent(tmp_path: Path) -> None:
    """The parent is killed outright; the worker follows. (Its own children are ended when the parent can still act.)"""
    pids = tmp_path / "pids"
    code = (
        "from pathlib import Path; from edgekit.workbench import worker; "
        f"worker.run('worker_jobs:children', {{'pids': {str(pids)!r}}}, Path({str(tmp_path)!r}), stage='trial')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait(pids.exists)
    worker_pid = int(pids.read_text().split()[0])
    parent.kill()
    parent.wait()
    _wait(lambda: not _alive(worker_pid))


def test_interrupt_ends_the_worker_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def stop(stage: str, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run("worker_jobs:children", {"pids": str(pids)}, tmp_path, stage="trial", progress=stop)
    for pid in map(int, pids.read_text().split()):
        _wait(lambda pid=pid: not _alive(pid))  # type: ignore[misc]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait(done: object) -> None:
    assert callable(done)
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)  # polling another process, bounded
    pytest.fail(f"still waiting after 30 seconds in process {os.getpid()}")


@pytest.mark.parametrize(
    "said",
    [
        "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource temporarily unavailable",
        "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_a_library_that_ends_the_worker_for_memory(tmp_path: Path, said: str) -> None:
    (tmp_path / "log").write_text(said)
    error = worker.post_mortem(1, "trace", tmp_path / "log")
    assert isinstance(error, ResourceError)
    assert error.cause == said
    (tmp_path / "log").write_text("a fault")
    assert isinstance(worker.post_mortem(1, "trace", tmp_path / "log"), CrashError)
