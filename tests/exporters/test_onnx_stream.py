"""ONNX files with states in all the forms that files have, each compared with the file itself in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import in_process
import numpy as np
import onnx
import onnxruntime
import pytest

import edgekit
from edgekit import registry
from edgekit.core import Graph, Recipe
from edgekit.errors import UnsupportedError
from edgekit.source import resolve
from edgekit.workbench.prove import hold_against_torch

helper, P = onnx.helper, onnx.TensorProto
TARGETS = ("cpu", "openvino")
Ports = dict[str, list[Any]]


def written(file: Path, nodes: list[Any], inputs: Ports, outputs: Ports, tensors: Any = (), **dtypes: int) -> Path:
    ports = [
        [helper.make_tensor_value_info(name, dtypes.get(name, P.FLOAT), shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    made = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in dict(tensors).items()]
    graph = helper.make_graph(nodes, "g", *ports, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), file)
    return file


def mean(*, rank: int = 2) -> list[Any]:
    """A running mean: y = h' = 0.9 h + 0.1 x, with what is left of x as a second output."""
    return [
        helper.make_node("Mul", ["h", "most"], ["old"]),
        helper.make_node("Mul", ["x", "few"], ["new"]),
        helper.make_node("Add", ["old", "new"], ["hn"]),
        helper.make_node("Sub", ["x", "hn"], ["rest"]),
        helper.make_node("ReduceSum", ["hn", "last"], ["size"], keepdims=0),
    ]


SHARES = {"most": np.float32(0.9), "few": np.float32(0.1), "last": np.array([1])}


def built(file: Path, states: dict[str, str], **options: Any) -> Graph:
    source = resolve.resolve(str(file), states=states, **options)
    out = file.with_suffix("")
    out.mkdir(exist_ok=True)
    exporter = registry.exporter(source.arch)
    (graph,) = exporter.graphs(source, "any", Recipe(), out, lambda what: None)
    hold_against_torch([graph], out, TARGETS, lambda what: None)
    assert len(exporter.settings(source, "any", out)["features"]) == graph.inputs[0].shape[-1]
    return graph


def test_several_outputs_are_results_of_one(tmp_path: Path) -> None:
    """One of them without an axis of results; names follow the ports."""
    outputs: Ports = {"rest": ["n", 3], "size": ["n"], "hn": ["n", 3]}
    file = written(tmp_path / "m.onnx", mean(), {"x": ["n", 3], "h": ["n", 3]}, outputs, SHARES)
    graph = built(file, {"h": "hn"})
    assert [port.shape for port in graph.outputs] == [("batch", 1, 4), ("batch", 3)]
    settings = registry.exporter("onnx").settings(resolve.resolve(str(file), states={"h": "hn"}), "any", tmp_path)
    assert settings["outputs"] == ["rest_0", "rest_1", "rest_2", "size"]
    assert settings["features"] == ["x0", "x1", "x2"]


def test_several_inputs_are_features_of_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["a", "b"], ["x"], axis=1), *mean()]
    inputs: Ports = {"a": ["n", 2], "h": ["n", 3], "b": ["n", 1]}
    file = written(tmp_path / "m.onnx", nodes, inputs, {"rest": ["n", 3], "hn": ["n", 3]}, SHARES)
    assert built(file, {"h": "hn"}).inputs[0].shape == ("batch", 1, 3)
    settings = registry.exporter("onnx").settings(resolve.resolve(str(file), states={"h": "hn"}), "any", tmp_path)
    assert settings["features"] == ["a_0", "a_1", "b"]
    other = written(tmp_path / "o.onnx", nodes, inputs | {"b": ["n", 1, 1]}, {"rest": ["n", 3], "hn": ["n", 3]}, SHARES)
    with pytest.raises(UnsupportedError, match="do not have the same axes before the last") as caught:
        built(other, {"h": "hn"})
    assert "--input b=VALUE" in caught.value.hint


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("form", ["series", "time first", "one series"])
def test_where_time_is(tmp_path: Path, form: str, narrow: bool) -> None:
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=size).astype(np.float32) for name, size in (("W", (1, 4, 2)), ("R", (1, 4, 4)))}
    tensors |= {"O": random.normal(size=(4, 1)).astype(np.float32), "one": np.array([1]), "two": np.array([2])}
    turn: Any = lambda a, b: helper.make_node("Transpose", [a], [b], perm=[1, 0, 2])  # noqa: E731
    nodes = {
        "series": [turn("x", "t")],
        "time first": [helper.make_node("Identity", ["x"], ["t"])],
        "one series": [helper.make_node("Unsqueeze", ["x", "one"], ["t"])],
    }[form]
    nodes += [
        helper.make_node("RNN", ["t", "W", "R", "", "", "h"], ["all", "hn"], hidden_size=4),
        helper.make_node("Squeeze", ["all", "one"], ["steps"]),
        helper.make_node("MatMul", ["steps", "O"], ["o"]),
    ]
    shapes: list[Any] = {"series": ["n", "t", 1], "time first": ["t", "n", 1], "one series": ["t", 1]}[form]
    if form == "series":
        nodes.append(turn("o", "p"))
    elif form == "time first":
        nodes.append(helper.make_node("Identity", ["o"], ["p"]))
    else:
        nodes.append(helper.make_node("Squeeze", ["o", "one"], ["p"]))
    nodes.append(
        helper.make_node("Squeeze", ["p", "last"], ["y"]) if narrow else helper.make_node("Identity", ["p"], ["y"])
    )
    tensors["last"] = np.array([-1])
    rows = 1 if form == "one series" else "n"
    inputs: Ports = {"x": [*shapes[:-1], 2], "h": [1, rows, 4]}
    file = written(
        tmp_path / "m.onnx", nodes, inputs, {"y": shapes[:-1] if narrow else shapes, "hn": [1, rows, 4]}, tensors
    )
    graph = built(file, {"h": "hn"})
    batch = 1 if form == "one series" else "batch"
    assert [port.shape for port in graph.inputs] == [(batch, "time", 2), (1, batch, 4)]
    assert graph.outputs[0].shape == (batch, "time", 1)


def branched() -> list[Any]:
    """x times a factor that an If chooses by the rate."""
    factor = [helper.make_tensor_value_info("factor", P.FLOAT, [])]
    sides = [
        helper.make_graph([helper.make_node("Constant", [], ["factor"], value_float=value)], "side", [], factor)
        for value in (2.0, 3.0)
    ]
    return [
        helper.make_node("Equal", ["sr", "usual"], ["same"]),
        helper.make_node("If", ["same"], ["by"], then_branch=sides[0], else_branch=sides[1]),
        helper.make_node("Mul", ["pcm", "by"], ["x"]),
        *mean(),
    ]


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_constant_input_chooses_a_branch(tmp_path: Path, rate: int) -> None:
    inputs: Ports = {"pcm": ["n", "wide"], "h": ["n", 3], "sr": []}
    tensors = SHARES | {"usual": np.array(16000)}
    file = written(tmp_path / "m.onnx", branched(), inputs, {"rest": ["n", 3], "hn": ["n", 3]}, tensors, sr=P.INT64)
    with pytest.raises(UnsupportedError, match=r"'sr' is INT64 \[\]") as caught:
        built(file, {"h": "hn"})
    assert "--input sr=VALUE" in caught.value.hint
    with pytest.raises(UnsupportedError, match="the number of features of 'pcm' is not fixed") as caught:
        built(file, {"h": "hn"}, inputs={"sr": rate})
    assert "--shape pcm=n,N" in caught.value.hint
    built(file, {"h": "hn"}, inputs={"sr": rate}, shapes={"pcm": ["n", 3]})
    in_process.export(
        str(file), tmp_path / "m.ek", targets=["cpu"], states={"h": "hn"}, inputs={"sr": rate}, shapes={"pcm": ["n", 3]}
    )
    session, h = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]), np.zeros((1, 3), np.float32)
    with edgekit.load(tmp_path / "m.ek") as model:
        assert model.variant.recipe.name == "fp32"  # it has no weight to quantize
        assert model.bundle.source.config["inputs"] == {"sr": rate}
        for x in np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32):
            wanted, h = session.run(None, {"pcm": x[None], "h": h, "sr": np.array(rate)})
            np.testing.assert_allclose(model.step(x), wanted[0], atol=1e-6)


def test_half_floats_become_floats(tmp_path: Path) -> None:
    """At the ports too: a stream is float32. The reference computes in float32 as well."""
    halves = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in SHARES.items()}
    dtypes = dict.fromkeys(("x", "h", "rest", "hn"), P.FLOAT16)
    outputs: Ports = {"rest": ["n", 3], "hn": ["n", 3]}
    file = written(tmp_path / "m.onnx", mean()[:4], {"x": ["n", 3], "h": ["n", 3]}, outputs, halves, **dtypes)
    graph = built(file, {"h": "hn"})
    assert {port.dtype for port in (*graph.inputs, *graph.outputs)} == {"float32"}


def test_outputs_of_two_kinds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("RNN", ["t", "W", "R", "", "", "h"], ["all", "hn"], hidden_size=4),
        helper.make_node("Squeeze", ["hn", "zero"], ["end"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    tensors = {"W": np.ones((1, 4, 2), np.float32), "R": np.ones((1, 4, 4), np.float32), "zero": np.array([0])}
    outputs: Ports = {"end": ["n", 4], "same": ["n", "t", 2], "hn": [1, "n", 4]}
    file = written(tmp_path / "m.onnx", nodes, {"x": ["n", "t", 2], "h": [1, "n", 4]}, outputs, tensors)
    with pytest.raises(UnsupportedError, match="some have a result for each step, some one for the end"):
        built(file, {"h": "hn"})


@pytest.mark.slow
def test_int8_that_loses_too_much_is_left_out_where_nobody_asked_for_it(tmp_path: Path) -> None:
    """Two products that nearly cancel each other."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["a"]),
        helper.make_node("MatMul", ["x", "B"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    tensors = {"A": weight, "B": weight * (1 + 1e-4 * random.normal(size=(64, 64)).astype(np.float32))}
    file = written(tmp_path / "m.onnx", nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, tensors)
    said: list[str] = []
    in_process.export(
        str(file), tmp_path / "m.ek", targets=["cpu"], progress=lambda stage, what: said.append(what), precision="auto"
    )
    assert any(line.startswith("quantization is left out: cpu/int8-dynamic lost too much") for line in said)
    with edgekit.load(tmp_path / "m.ek") as model:
        assert [variant.name for variant in model.bundle.variants] == ["cpu/fp32"]
    with pytest.raises(edgekit.errors.VerificationError, match="lost too much"):
        in_process.export(str(file), tmp_path / "n.ek", targets=["cpu"], precision="int8")
