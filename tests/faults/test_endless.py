"""Models and files without an end: an export stops at a limit that can be raised, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.errors import ResourceError, UsageError

LOOP = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch,3] x, float[batch,3] h) => (float[batch,3] y, float[batch,3] hn) {
   hn = Add (x, h)
   trips = Constant <value = int64 {4611686018427387904}> ()
   yes = Constant <value = bool {1}> ()
   y = Loop (trips, yes, hn) <body: graph = b (int64 i, bool before, float[] v) => (bool after, float[] w) {
      after = Identity (before)
      w = Identity (v)
   }>
}
"""


@pytest.mark.slow
def test_a_loop_without_an_end_stops_at_the_time_limit(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.parser.parse_model(LOOP), tmp_path / "loop.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(ResourceError, match="did not end within 15 seconds") as caught:
        edgekit.export(
            str(tmp_path / "loop.onnx"), tmp_path / "out" / "loop.ek", states={"h": "hn"}, targets=["cpu"],
            precision="fp32", time_limit=15,
        )  # fmt: skip
    assert caught.value.exit_code == 7
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("seconds", [0, -1.0, np.inf, np.nan])
def test_a_time_limit_that_makes_no_sense(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="--time-limit is"):
        edgekit.export("zoo:motor", tmp_path / "m.ek", time_limit=seconds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_calibration_data_without_an_end(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="not a regular file") as caught:
        edgekit.export("zoo:motor", tmp_path / "out" / "m.ek", targets=["cpu"], calibration=tmp_path / name)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path / "out") == []
