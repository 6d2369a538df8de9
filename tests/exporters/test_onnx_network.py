"""ONNX files without states: networks from arrays to arrays, which give what ONNX Runtime gives for the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import onnx
import onnxruntime
import pytest
from cli_calls import Call, call

import edgekit
from edgekit.errors import EdgeKitError, InputError, NoSuchMethodError, UnsupportedError, UsageError
from edgekit.runtimes.samples import arrays as samples
from edgekit.runtimes.tasks.raw import Raw

__all__ = ["call"]
helper, P = onnx.helper, onnx.TensorProto
TARGETS = ("cpu", "openvino")


def network(file: Path, *, dtype: int = P.FLOAT, opset: int = 11) -> Path:
    """A small CNN with two outputs and a factor, in an opset that has no weights in blocks."""
    random = np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    shapes = {"k": (32, 3, 3, 3), "kb": (32,), "W": (32, 64), "b": (64,)}
    tensors = [
        onnx.numpy_helper.from_array((random.normal(size=shape) * 0.3).astype(kind), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["pixels", "k", "kb"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "W", "b"], ["g"]),
        helper.make_node("Mul", ["g", "scale"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("pixels", dtype, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("scale", dtype, []),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", dtype, ["n", 64]),
        helper.make_tensor_value_info("best", P.INT64, ["n"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4), file)
    return file


def run(file: Path, feeds: Mapping[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [port.name for port in session.get_outputs()],
            session.run(None, {name: np.asarray(x) for name, x in feeds.items()}),
        )
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("network")
    made = home / "network.ek"
    in_process.export(
        str(network(home / "network.onnx")),
        made,
        targets=TARGETS,
        precision=("fp32", "int8"),
        inputs={"scale": 1.5},
    )
    return made


def pixels(rows: int = 3, size: int = 20) -> Any:
    return np.random.default_rng(1).normal(size=(rows, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
def test_it_gives_what_onnx_runtime_gives(bundle: Path, target: str) -> None:
    wanted = run(bundle.with_name("network.onnx"), {"pixels": pixels(), "scale": np.float32(1.5)})
    with edgekit.load(bundle, target=target, precision="fp32") as model:
        assert isinstance(model, Raw)
        found = model.predict({"pixels": pixels()})
        assert list(found) == ["scores", "best"]
        np.testing.assert_allclose(found["scores"], wanted["scores"], atol=2e-5)
        np.testing.assert_array_equal(found["best"], wanted["best"])
        assert [each.keys() for each in model.run({"pixels": pixels()})] == [found.keys()]
        first, second = model.predict([{"pixels": pixels()}, {"pixels": pixels(1, 9).tolist()}])
        assert first["scores"].tobytes() == found["scores"].tobytes()
        assert second["scores"].shape == (1, 64)
    with edgekit.load(bundle, target=target, precision="int8") as model, pytest.raises(NoSuchMethodError):
        model.embed("a")


def test_its_bundle_verifies(bundle: Path) -> None:
    assert [check.ok for check in edgekit.verify(bundle)] == [True] * 4
    loaded = edgekit.load(bundle, target="cpu", precision="int8")
    assert 0 < loaded.variant.measured["loss"] < 0.02
    loaded.close()


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({}, "the inputs are empty"),
        ({"image": 1}, "the inputs are image"),
        ({"pixels": pixels(), "scale": 1}, "the inputs are pixels, scale"),
        ({"pixels": np.zeros((1, 3, 4))}, r"pixels has the shape \[1, 3, 4\]"),
        ({"pixels": np.zeros((1, 4, 4, 4))}, r"pixels has the shape \[1, 4, 4, 4\]"),
        ({"pixels": np.full((1, 3, 4, 4), "a")}, "pixels holds text"),
        ({"pixels": [[1], [1, 2]]}, "pixels is not an array"),
        ({"pixels": np.full((1, 3, 4, 4), 1e300)}, "whose values float32 cannot hold"),
        ({"pixels": np.full((1, 3, 4, 4), 2**53 + 1)}, "whose values float32 cannot hold"),
        (np.zeros(3), "inputs are ndarray"),
        ([{"pixels": pixels()}, 3], r"inputs\[1\]: the inputs are int"),
    ],
)
def test_inputs_that_do_not_fit(bundle: Path, inputs: Any, why: str) -> None:
    with edgekit.load(bundle, target="cpu", precision="fp32") as model, pytest.raises(InputError, match=why) as caught:
        model.predict(inputs)
    assert "pixels" in caught.value.hint or "float32" in caught.value.hint


def test_half_floats_stay_at_the_ports(tmp_path: Path) -> None:
    file = network(tmp_path / "half.onnx", dtype=P.FLOAT16, opset=13)
    in_process.export(str(file), tmp_path / "half.ek", targets=TARGETS, precision="fp32")
    x, scale = pixels().astype(np.float16), np.float16(2)
    wanted = run(file, {"pixels": x, "scale": scale})["scores"]
    for target in TARGETS:
        with edgekit.load(tmp_path / "half.ek", target=target) as model:
            scores = model.predict({"pixels": x, "scale": 2})["scores"]
            assert scores.dtype == np.float16
            np.testing.assert_allclose(scores.astype(float), wanted.astype(float), atol=5e-3)
            with pytest.raises(InputError, match=r"scale is float64, whose values float16 cannot hold"):
                model.predict({"pixels": x, "scale": 1e5})


def test_axes_of_one_name_have_one_length(tmp_path: Path) -> None:
    a, b, y = (helper.make_tensor_value_info(name, P.INT64, ["n", 2]) for name in "aby")
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", [a, b], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    said: list[str] = []
    in_process.export(
        str(tmp_path / "m.onnx"), tmp_path / "m.ek", targets=["cpu"], progress=lambda stage, what: said.append(what)
    )
    assert any("the file has none of MatMul" in line for line in said)
    with edgekit.load(tmp_path / "m.ek") as model:
        assert model.variant.recipe.name == "fp32"
        y_of = model.predict({"a": [[1, 2]], "b": [[3.0, 4.0]]})["y"]
        np.testing.assert_array_equal(y_of, [[4, 6]])
        with pytest.raises(InputError, match="b has 1 of 'n', and a has 2"):
            model.predict({"a": [[1, 2], [1, 2]], "b": [[3, 4]]})
    with pytest.raises(UnsupportedError, match="and is not quantized again"):
        in_process.export(str(tmp_path / "m.onnx"), tmp_path / "n.ek", targets=["cpu"], precision="int8")


def test_a_file_that_is_quantized_already(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    file = tmp_path / "small.onnx"
    quantize_dynamic(network(tmp_path / "network.onnx", opset=13), file, op_types_to_quantize=["Gemm", "MatMul"])
    in_process.export(str(file), tmp_path / "small.ek", targets=["cpu"])
    wanted = run(file, {"pixels": pixels(), "scale": np.float32(1)})["scores"]
    with edgekit.load(tmp_path / "small.ek") as model:
        assert model.variant.recipe.name == "fp32"
        np.testing.assert_allclose(model.predict({"pixels": pixels(), "scale": 1})["scores"], wanted, atol=1e-4)
    with pytest.raises(UnsupportedError, match="the file is quantized already"):
        in_process.export(str(file), tmp_path / "again.ek", targets=["cpu"], precision="int8")


def test_a_free_axis_that_cannot_be_anything_is_named(tmp_path: Path) -> None:
    """And --shape, or a sample of the user's, says what it can be."""
    x = helper.make_tensor_value_info("x", P.FLOAT, ["n", "wide"])
    y = helper.make_tensor_value_info("y", P.FLOAT, ["n", 5])
    weight = onnx.numpy_helper.from_array(np.ones((7, 5), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    with pytest.raises(UnsupportedError, match=r"does not run on sample inputs \(x \[1, 16\]\)") as caught:
        in_process.export(str(file), tmp_path / "m.ek", targets=["cpu"], precision="fp32")
    assert "--shape" in caught.value.hint
    in_process.export(str(file), tmp_path / "a.ek", targets=["cpu"], precision="fp32", shapes={"x": ["n", 7]})
    np.savez(tmp_path / "own.npz", x=np.full((2, 7), 3, np.float32))
    own = str(tmp_path / "own.npz")
    in_process.export(str(file), tmp_path / "b.ek", targets=["cpu"], precision="fp32", calibration=own)
    with edgekit.load(tmp_path / "b.ek") as model:
        np.testing.assert_allclose(model.predict({"x": np.ones((1, 7))})["y"], np.full((1, 5), 7))


def test_the_command_reads_and_writes_arrays(bundle: Path, tmp_path: Path, call: Call) -> None:
    np.savez(tmp_path / "in.npz", pixels=pixels())
    np.save(tmp_path / "in.npy", pixels(1))
    words = ("run", bundle, "--target", "cpu", "--precision", "fp32")
    ended = call(*words, tmp_path / "in.npz", tmp_path / "in.npy", "-o", tmp_path / "out.npz")
    assert (ended.code, ended.out) == (0, "")
    with edgekit.load(bundle, target="cpu", precision="fp32") as model:
        wanted = model.predict({"pixels": pixels()})
    with np.load(tmp_path / "out.npz") as found:
        assert set(found.files) == {"scores", "best", "scores.1", "best.1"}
        np.testing.assert_array_equal(found["scores"], wanted["scores"])
    shown = call(*words, tmp_path / "in.npy")
    assert json.loads(shown.out.split("\t")[1].removeprefix("best ")) == wanted["best"][:1].tolist()
    found_json = call(*words, tmp_path / "in.npy", "--json").json["results"]
    assert found_json[0]["best"] == wanted["best"][:1].tolist()


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["missing.npz"], 2, "cannot read missing.npz"),
        (["text.npz"], 2, "text.npz is not an .npz or .npy file of numbers"),
        (["-"], 2, "arrays cannot be read from stdin"),
        (["other.npz"], 2, "the inputs are x"),
    ],
)
def test_files_that_are_no_arrays(
    bundle: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npz").write_text("x")
    np.savez("other.npz", x=1)
    ended = call("run", bundle, *words, stdin=b"")
    assert ended.code == code
    assert why in ended.err


def test_names_that_only_named_arrays_have(bundle: Path, tmp_path: Path, call: Call) -> None:
    np.savez(tmp_path / "in.npz", pixels=pixels())
    ended = call("run", bundle, tmp_path / "in.npz", "-o", tmp_path / "out.npy")
    assert (ended.code, "are not an array" in ended.err) == (2, True)


def test_samples_are_the_same_everywhere() -> None:
    """Their bits, and what a user's file adds."""
    ports = [{"name": "x", "dtype": "float32", "shape": ["n", 2]}, {"name": "m", "dtype": "bool", "shape": [3]}]
    made = samples.made_up(ports)
    first = samples.arrays(made[0])
    np.testing.assert_array_equal(first["x"] * 2**23, [[2297835, -3862339]])
    assert first["m"].tolist() == [False, False, True]
    assert samples.arrays(made[1])["x"].shape == (2, 2)


def test_files_to_judge_by(tmp_path: Path) -> None:
    ports = [{"name": "x", "dtype": "float32", "shape": ["n"]}]
    with pytest.raises(UsageError, match=r"no \.npz file in this folder"):
        samples.read(tmp_path, ports)
    np.savez(tmp_path / "a.npz", x=[1.0, 2.0])
    found = samples.read(tmp_path, ports)
    assert samples.arrays(found[-1])["x"].tolist() == [1, 2]
    assert {samples.arrays(each)["x"].shape for each in found} == {(2,)}
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"--calibration b\.npz is not"):
        samples.read(tmp_path, ports)
    two = [*ports, {"name": "z", "dtype": "float32", "shape": []}]
    np.save(tmp_path / "c.npy", [1])
    with pytest.raises(EdgeKitError, match=r"c\.npy is one array, and the inputs are x, z"):
        samples.load(tmp_path / "c.npy", [port["name"] for port in two])
