"""Whose fault it is when an engine fails: the file's, the machine's or the input's, on every target."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekit import registry
from edgekit.core import Graph, Port, Recipe
from edgekit.errors import BundleError, DeviceError, InputError, ResourceError

HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
GRAPH = Graph(
    "small", "small.onnx", (Port("x", "float32", ("n", 4)),), (Port("y", "float32", ("n", 4)),)
)  # fmt: skip
ENGINES = {"cpu": "_ort", "openvino": "_openvino"}
JUNK, MARK = b"\xff\xfe\xff\xfe", b"QQQQ"


def model(*nodes: Any, weights: dict[str, Any] | None = None) -> ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "small",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def engine(target: str) -> Any:
    return import_module(f"edgekit.targets.{ENGINES[target]}.engine")


RELU = helper.make_node("Relu", ["x"], ["y"])
BAD = {
    "empty": b"",
    "torn": model(RELU).SerializeToString()[:-7],
    "unknown operator": model(helper.make_node("Nope", ["x"], ["y"])).SerializeToString(),
    "missing input": model(helper.make_node("Relu", ["nowhere"], ["y"])).SerializeToString(),
    "missing attribute": model(helper.make_node("Concat", ["x", "x"], ["y"])).SerializeToString(),
    "shapes": model(
        helper.make_node("MatMul", ["x", "w"], ["y"]), weights={"w": np.ones((5, 4), np.float32)}
    ).SerializeToString(),
    "operator not UTF-8": model(helper.make_node("QQQQ", ["x"], ["y"])).SerializeToString().replace(MARK, JUNK),
}  # fmt: skip


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_graph_is_the_files_fault(target: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(BAD[name])
    with pytest.raises(BundleError, match=r"cannot open small\.onnx") as caught:
        registry.find("targets", target).open(tmp_path, GRAPH, Recipe(), threads=1)
    assert caught.value.exit_code == 6
    assert caught.value.cause
    assert not isinstance(caught.value, InputError)


def test_an_input_that_a_node_refuses(tmp_path: Path) -> None:
    """Its axis is free by the graph's ports, and 3 by its weights. OpenVINO computes something all the same."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    data = model(node, weights={"w": np.ones((3, 4), np.float32)}).SerializeToString()
    (tmp_path / "small.onnx").write_bytes(data)
    session = registry.find("targets", "cpu").open(tmp_path, GRAPH, Recipe(), threads=1)
    with pytest.raises((InputError, BundleError), match=r"failed in small\.onnx"):
        session.run({"x": np.ones((2, 4), np.float32)})
    session.close()


@pytest.mark.parametrize("target", HERE)
def test_a_bug_of_ours_stays_one(target: str) -> None:
    with pytest.raises(KeyError), engine(target).running("small.onnx"):
        raise KeyError("ours")


# What a library says, and whose fault it is.
SAID = [
    ("bad_alloc", ResourceError),
    ("Failed to allocate memory for requested buffer of size 9", ResourceError),
    ("pthread_create failed, error code: 11", ResourceError),
    ("Too many open files", ResourceError),
]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("name", ["opening", "running"])
@pytest.mark.parametrize(("text", "kind"), SAID)
def test_what_ran_out(target: str, name: str, text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind), getattr(engine(target), name)("small.onnx"):
        raise RuntimeError(text)


def test_an_id_out_of_range_is_the_inputs_fault() -> None:
    with pytest.raises(InputError, match="no such token"), engine("cpu").running("small.onnx"):
        raise RuntimeError("indices element out of data bounds, idx=9 must be within the inclusive range [-4,3]")


def test_a_cuda_failure_at_opening_is_the_devices() -> None:
    with pytest.raises(DeviceError), engine("cpu").opening("small.onnx"):
        raise RuntimeError("libcudnn.so.9: cannot open shared object file")
    with pytest.raises(BundleError), engine("cpu").opening("small-cuda.onnx"):
        raise RuntimeError("Load model from /models/cuda/small-cuda.onnx failed: no graph")


def limited(limit: int, soft: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(limit, (soft, soft))


def run_edgekit(words: list[str], limit: int, soft: int) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "edgekit", "run", *words],
        input="", capture_output=True, text=True, timeout=120, check=False, preexec_fn=limited(limit, soft),
    )  # fmt: skip
    return ended.returncode, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("megabytes", [290, 300, 320, 350, 400, 450])
def test_little_address_space(target: str, megabytes: int, exported: Callable[..., Path]) -> None:
    """Whatever fails for it, a thread, a library, an array: it works or it says what ran out."""
    bundle = exported("zoo:speaker")
    code, said = run_edgekit([str(bundle), "12 =", "--target", target], resource.RLIMIT_AS, megabytes * 10**6)
    assert code in (0, 7), said
    assert code == 0 or any(words in said for words in ("out of memory", "no more threads")), said


@pytest.mark.slow
@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("files", [6, 8, 9])
def test_few_open_files(
    target: str, files: int, exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is compiled yet: more files are open
    bundle = exported("zoo:speaker")
    code, said = run_edgekit([str(bundle), "12 =", "--target", target], resource.RLIMIT_NOFILE, files)
    assert code in (0, 7), said
    assert code == 0 or "too many open files" in said
