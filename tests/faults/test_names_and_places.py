"""Names that no engine can open, places that take no file, records and models that are not what they seem."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_calls import Call, bundles, call, vectors

import edgekit
from edgekit.bundle import publish
from edgekit.errors import BundleError, StateError, UsageError
from edgekit.runtimes import state_file

__all__ = ["bundles", "call", "vectors"]

ODD = "m\udcff.ek"  # a byte that is not UTF-8, as Python has it


def test_a_bundle_whose_path_is_not_utf8(call: Call, vectors: Path, tmp_path: Path) -> None:
    """No engine opens a file there: said before one tries, and printed on any terminal."""
    shutil.copytree(vectors, tmp_path / ODD)
    for words in (["run", tmp_path / ODD, "text"], ["inspect", tmp_path / ODD], ["verify", tmp_path / ODD]):
        ended = call(*words)
        assert ended.code == 2
        assert "is not UTF-8" in ended.err
        assert call(*words, "--json").json["error"]["code"] == "EK-USAGE"
    (tmp_path / "link.ek").symlink_to(ODD)
    with pytest.raises(UsageError, match="is not UTF-8"):
        edgekit.load(tmp_path / "link.ek")


def test_results_may_have_any_name(call: Call, vectors: Path, tmp_path: Path) -> None:
    ended = call("run", vectors, "text", "-o", tmp_path / "o\udcff.json", "--json")
    assert (ended.code, ended.json["output"]) == (0, f"{tmp_path}/o\udcff.json")
    assert os.listdir(os.fsencode(tmp_path)) == [b"o\xff.json"]


@pytest.mark.parametrize("name", [ODD, f"{ODD}/m.ek"])
def test_nothing_is_published_where_no_engine_can_open_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match="is not UTF-8"), publish.into(tmp_path / name):
        pytest.fail("entered")


def test_a_place_is_checked_before_a_model_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        edgekit.export("no-such/model", tmp_path / "none" / "m.ek")


def test_a_place_that_takes_no_files() -> None:
    with pytest.raises(UsageError, match="/proc takes no new files"), publish.into(Path("/proc/x.ek")):
        pytest.fail("entered")


def test_a_state_file_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(StateError, match="is not a saved chat"):
            state_file.read(path, "chat", "model")


def test_a_model_whose_path_is_not_utf8(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    (tmp_path / "m.onnx").rename(tmp_path / "m\udcff.onnx")
    with pytest.raises(UsageError, match="is not UTF-8"):
        edgekit.export(str(tmp_path / "m\udcff.onnx"), tmp_path / "m.ek", states={"h": "hn"})


MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch,3] x, float[batch,3] h) => (float[batch,3] y, float[batch,3] hn) {
   hn = Add (x, h)
   y = Identity (hn)
}
"""
BAD = {
    "two nodes that give one value": MODEL.replace("y =", "hn = Mul (x, h) y ="),
    "two inputs of one name": MODEL.replace("x,", "x, float[batch,3] x,", 1),
    "a circle": MODEL.replace("Add (x, h)", "Add (x, y)"),
}


@pytest.mark.parametrize("fault", [*BAD, "empty", "cut", "hard-linked weights"])
def test_a_bad_model_file_is_named(tmp_path: Path, fault: str) -> None:
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "mine.onnx"
    model = onnx.parser.parse_model(BAD.get(fault, MODEL))
    if fault == "hard-linked weights":
        weight = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
        model.graph.initializer.append(weight)
        onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)
        os.link(tmp_path / "w.bin", tmp_path / "another name")
    else:
        file.write_bytes({"empty": b"", "cut": model.SerializeToString()[:-9]}.get(fault, model.SerializeToString()))
    with pytest.raises(BundleError) as caught:
        edgekit.export(str(file), tmp_path / "m.ek", states={"h": "hn"}, targets=["cpu"])
    assert caught.value.exit_code == 6
    assert ("w.bin" if fault == "hard-linked weights" else "mine.onnx") in caught.value.message
    assert not (tmp_path / "m.ek").exists()
