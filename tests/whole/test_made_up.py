"""A task and an architecture that are one file each, in a copy of the house whose other files are untouched.

Both are exported, run, verified, listed and measured by the commands that a user types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgekit

pytestmark = pytest.mark.slow

FILES = Path(__file__).parents[1] / "fixtures" / "made_up"
CHECKOUT = Path(edgekit.__file__).parent.parent
Run = Callable[..., str]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to every file of the house, with one file more in exporters/ and one in runtimes/tasks/."""
    if not (CHECKOUT / "exporters").is_dir():
        pytest.skip("EdgeKit is installed here as a wheel")
    house = tmp_path_factory.mktemp("house")
    for name in ("edgekit", "targets"):
        (house / name).symlink_to(CHECKOUT / name)
    for folder, file in (("exporters", "doubler.py"), ("runtimes/tasks", "number_doubling.py")):
        (house / folder).mkdir(parents=True)
        for entry in (CHECKOUT / folder).iterdir():
            (house / folder / entry.name).symlink_to(entry)
        (house / folder / file).symlink_to(FILES / file)
    for entry in (CHECKOUT / "runtimes").iterdir():
        if entry.name != "tasks":
            (house / "runtimes" / entry.name).symlink_to(entry)
    return house


@pytest.fixture(scope="module")
def run(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `edgekit` of that house in a folder that holds a model, and gives its stdout."""
    place = tmp_path_factory.mktemp("place")
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text('{"model_type": "doubler", "factor": 2.0}')
    (place / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "edgekit", *words]
        env = {**os.environ, "PYTHONPATH": str(house)}
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("export", "model", "-o", "made.ek", "--precision", "fp32")
    return run


def test_it_runs(run: Run) -> None:
    assert json.loads(run("run", "made.ek", "3", "-p", "-4.5", "--json"))["results"] == [[6.0], [-9.0]]
    assert json.loads(run("run", "made.ek", "-p", "-4.5", "--truncate", "--json"))["results"] == [[-8.0]]


def test_it_is_verified_and_listed(run: Run) -> None:
    assert "FAILED" not in run("verify", "made.ek")
    assert "number-doubling" in run("inspect", "made.ek")
    variants = json.loads(run("inspect", "made.ek", "--json"))["variants"]
    assert all(variant["measured"]["batch_invariant"] for variant in variants)
    assert all(check["batch_invariant"] for check in json.loads(run("verify", "made.ek", "--json"))["checks"])
    assert "twice the number in each text" in run("list", "tasks")
    assert "doubler" in run("list", "architectures")


def test_it_is_measured(run: Run) -> None:
    rows = json.loads(run("bench", "made.ek", "--quick", "--target", "cpu", "--json"))["rows"]
    assert [row["scenario"] for row in rows] == ["single-stream", "offline"]
    assert all(row["check"]["ok"] for row in rows)
