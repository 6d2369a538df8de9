"""No command and no program that imports EdgeKit leaves a trace: no socket, no file that is not ours.

Engines hold back where they recognize a CI machine, so its variables are unset here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PLACES = {"HOME": "home", "XDG_CACHE_HOME": "home/.cache", "TMPDIR": "tmp"}
CI = re.compile(r"^(CI|TF_BUILD|CODEBUILD|JENKINS|GITHUB_|GITLAB_|BUILD_|TRAVIS|APPVEYOR|TEAMCITY|BUILDKITE|CIRCLECI)")
OPT_OUT = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")  # what this process has, as it imports EdgeKit
TRACED = (
    "strace",
    "-f",
    "--seccomp-bpf",
    "-qq",
    "-e",
    "trace=socket,connect,sendto,sendmmsg",
    "-e",
    "signal=none",
    "-o",
)
NETWORK = re.compile(r"AF_INET")
OURS = "home/.cache/edgekit/"
MOTOR = b"current,temperature,vibration\n" + b"6,45,2\n" * 20


@dataclass(frozen=True)
class Machine:
    """A user's account: empty folders, and what a process did in them."""

    folder: Path

    def run(self, *words: str | Path, stdin: bytes = b"") -> tuple[str, list[str]]:
        """What the command wrote to stdout, and its network calls (none where there is no strace)."""
        places = {name: str(self.folder / place) for name, place in PLACES.items()}
        kept = {name: value for name, value in os.environ.items() if not CI.match(name) and name not in OPT_OUT}
        log = self.folder / "strace.log"
        traced = (*TRACED, str(log)) if shutil.which("strace") else ()
        ended = subprocess.run(
            [*traced, sys.executable, *map(str, words)],
            input=stdin, capture_output=True, timeout=600, check=False, cwd=self.folder, env=kept | places,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr.decode()
        lines = log.read_text(errors="replace").splitlines() if traced else []
        return ended.stdout.decode(), [line for line in lines if NETWORK.search(line)]

    def files(self) -> set[str]:
        """Every file, folder and socket below the user's folders."""
        found = (path for name in ("home", "tmp") for path in (self.folder / name).rglob("*"))
        return {str(path.relative_to(self.folder)) for path in found}

    def foreign(self) -> list[str]:
        ours = (OURS.rstrip("/"), "home/.cache")
        return sorted(name for name in self.files() if name not in ours and not name.startswith(OURS))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for place in PLACES.values():
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    return Machine(tmp_path)


@pytest.mark.slow
def test_commands(machine: Machine) -> None:
    edgekit = ("-m", "edgekit")
    targets = ("--target", "cpu", "--target", "openvino")
    commands: tuple[tuple[str, ...], ...] = (
        ("export", "zoo:motor", "-o", "motor.ek", *targets, "-q"),
        ("run", "motor.ek", "-", "--target", "cpu"),
        ("run", "motor.ek", "-", "--target", "openvino"),
        ("verify", "motor.ek", *targets),
        ("inspect", "motor.ek"),
        ("bench", "motor.ek", *targets, "--quick", "-o", "record.json"),
        ("report", "record.json", "-o", "report.html"),
        ("list",),
        ("doctor",),
    )
    for words in commands:
        _, calls = machine.run(*edgekit, *words, stdin=MOTOR)
        assert (words, calls, machine.foreign()) == (words, [], [])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_program(machine: Machine, exported: Callable[..., Path], target: str) -> None:
    """The engine is imported by the program itself, after edgekit."""
    engine = {"cpu": "onnxruntime", "openvino": "openvino"}[target]
    bundle = exported("zoo:speaker")
    code = f"import edgekit, {engine}; print(edgekit.load({str(bundle)!r}, target={target!r}).generate('12 =').text)"
    said, calls = machine.run("-c", code)
    assert said.strip()
    assert (calls, machine.foreign()) == ([], [])


STARTED = """
import {engine}, edgekit
from edgekit import doctor
diagnosis = doctor.examine()
print(diagnosis.telemetry)
print([finding.problem for finding in diagnosis.findings if "telemetry" in finding.problem])
"""


@pytest.mark.parametrize(("engine", "name"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_an_engine_that_came_first_is_named(machine: Machine, engine: str, name: str) -> None:
    """Its own files show that the test above looks at the right places."""
    said, _ = machine.run("-c", STARTED.format(engine=engine))
    started, problems = said.splitlines()
    assert started == repr((name,))
    assert problems == repr([f"{name} was imported before edgekit, with its telemetry on"])
    assert machine.foreign()


def test_the_environment_cannot_switch_it_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.OPT_OUT", ())
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    machine.run("-c", "import edgekit, onnxruntime")
    assert machine.foreign() == []
