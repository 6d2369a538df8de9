"""`--json` under every kind of failure: one JSON object on stdout with the error's code, and the exit code."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest
from cli_calls import Call, bundles, call, vectors

__all__ = ["bundles", "call", "vectors"]

FAILURES: dict[str, tuple[int, str, list[str]]] = {
    "no input": (2, "EK-USAGE", ["run", "good.ek"]),
    "a result in place of a folder": (2, "EK-USAGE", ["run", "good.ek", "text", "-o", "folder.json"]),
    "a text that is not UTF-8": (2, "EK-INPUT", ["run", "good.ek", "a\udcff"]),
    "an option of another task": (2, "EK-USAGE", ["run", "good.ek", "text", "--temperature", "1"]),
    "inputs that are not there": (2, "EK-USAGE", ["bench", "good.ek", "--input", "none.txt", "--quick"]),
    "calibration data that is not there": (
        2,
        "EK-USAGE",
        ["export", "zoo:motor", "-o", "new.ek", "--calibration", "none.csv"],
    ),
    "a model that is not there": (3, "EK-SOURCE", ["export", "zoo:none", "-o", "new.ek"]),
    "an architecture that is not known": (4, "EK-UNSUPPORTED", ["export", "random:config.json", "-o", "new.ek"]),
    "a damaged bundle": (6, "EK-BUNDLE", ["run", "damaged.ek", "text"]),
    "a damaged bundle, inspected": (6, "EK-BUNDLE", ["inspect", "damaged.ek"]),
    "a damaged bundle, verified": (6, "EK-BUNDLE", ["verify", "damaged.ek"]),
    "a damaged bundle, measured": (6, "EK-BUNDLE", ["bench", "damaged.ek"]),
    "a bundle that is not there": (6, "EK-BUNDLE", ["run", "none.ek", "text"]),
    "a record that is none": (6, "EK-RECORD", ["report", "config.json"]),
    "too little memory": (7, "EK-RESOURCE", ["export", "zoo:parity", "-o", "new.ek", "--memory-limit", "1M"]),
    "a device that is not there": (8, "EK-DEVICE", ["run", "good.ek", "text", "--target", "cuda"]),
    "an output that is being written": (9, "EK-BUSY", ["export", "zoo:motor", "-o", "busy.ek", "--target", "cpu"]),
}


@pytest.fixture
def place(vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with all that the commands name."""
    monkeypatch.chdir(tmp_path)
    for name in ("good.ek", "damaged.ek"):
        shutil.copytree(vectors, tmp_path / name)
    (graph,) = (tmp_path / "damaged.ek").rglob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none-such"}))
    return tmp_path


@pytest.mark.parametrize("failure", FAILURES)
def test_one_object_whatever_goes_wrong(call: Call, place: Path, failure: str) -> None:
    status, code, words = FAILURES[failure]
    with (place / ".busy.ek.ek-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ended = call(*words, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (status, code), ended.err
    assert set(ended.json) == {"error"}
    assert ended.json["error"]["message"] in ended.err
    assert "Traceback" not in ended.err
    assert not (place / "new.ek").exists()
