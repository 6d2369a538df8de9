"""ONNX files of the user: what of their ports and options is refused, and what is put right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_calls import Call, call

from edgekit import registry
from edgekit.core import Graph, Recipe, Source
from edgekit.errors import BundleError, EdgeKitError, UnsupportedError, UsageError, VerificationError
from edgekit.source import onnx_file, resolve
from edgekit.workbench import graph as graphs
from edgekit.workbench.prove import check_steps, hold_against_torch

__all__ = ["call"]
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
STATES = {"h0": "hn"}
Shapes = dict[str, list[Any]]
USUAL: Shapes = {"series": ["n", "t", 2], "h0": [1, "n", 4], "answer": ["n", "t", 2], "hn": [1, "n", 4]}


def nodes(order: str = "rows first") -> list[Any]:
    """An Elman network whose first two states are its answer."""
    turn: Callable[[str, str], Any] = lambda a, b: helper.make_node("Transpose", [a], [b], perm=[1, 0, 2])  # noqa: E731
    same: Callable[[str, str], Any] = lambda a, b: helper.make_node("Identity", [a], [b])  # noqa: E731
    go = turn if order == "rows first" else same
    return [
        go("series", "by_time"),
        helper.make_node("RNN", ["by_time", "W", "R", "B", "", "h0"], ["all", "hn"], hidden_size=4),
        helper.make_node("Squeeze", ["all", "one"], ["steps"]),
        helper.make_node("Slice", ["steps", "zero", "two", "axis"], ["x"]),
        go("x", "answer"),
    ]


def old_nodes() -> list[Any]:
    """The same in the form of opset 9."""
    turn: Callable[[str, str], Any] = lambda a, b: helper.make_node("Transpose", [a], [b], perm=[1, 0, 2])  # noqa: E731
    return [
        turn("series", "by_time"),
        helper.make_node("RNN", ["by_time", "W", "R", "B", "", "h0"], ["all", "hn"], hidden_size=4),
        helper.make_node("Squeeze", ["all"], ["steps"], axes=[1]),
        helper.make_node("Slice", ["steps"], ["x"], starts=[0], ends=[2], axes=[2]),
        turn("x", "answer"),
    ]


def weights(**changes: Any) -> list[Any]:
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=size).astype(np.float32) for name, size in (("W", (1, 4, 2)), ("R", (1, 4, 4)))}
    arrays |= {"B": np.zeros((1, 8), np.float32), **changes}
    ints = {"one": [1], "zero": [0], "two": [2], "axis": [2]}
    return [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in {**arrays, **ints}.items()]


def written(folder: Path, shapes: Shapes | None = None, made: Any = None, tensors: Any = None, **told: Any) -> Path:
    shapes = USUAL | (shapes or {})
    ports = {name: helper.make_tensor_value_info(name, told.get(name, FLOAT), shape) for name, shape in shapes.items()}
    inputs, outputs = [[ports[name] for name in ports if (name in ("answer", "hn")) == out] for out in (False, True)]
    graph = helper.make_graph(made or nodes(), "g", inputs, outputs, tensors or weights())
    opset = [helper.make_opsetid("", told.get("opset", 21))]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "m.onnx")
    return folder / "m.onnx"


def built(path: Path, states: dict[str, str] | None = None, recipe: Recipe | None = None) -> tuple[Source, Graph]:
    found = resolve.resolve(str(path), states=states or STATES)
    out = path.with_name("fp32")
    out.mkdir(exist_ok=True)
    (graph,) = registry.exporter(found.arch).graphs(found, "any", recipe or Recipe(), out, lambda what: None)
    assert graphs.describe(graphs.load(out / graph.path), "model", graph.path, {}, graph.states, graph.kind) == graph
    return found, graph


def refused(path: Path, error: type[EdgeKitError], why: str, recipe: Recipe | None = None) -> EdgeKitError:
    with pytest.raises(error, match=why) as caught:
        built(path, recipe=recipe)
    assert caught.value.hint or caught.value.details
    return caught.value


def test_ports_get_the_names_of_a_stream(tmp_path: Path) -> None:
    """And what has these names inside the file gets others."""
    found, graph = built(written(tmp_path))
    assert [(port.name, port.shape) for port in graph.inputs] == [("x", ("batch", "time", 2)), ("h0", (1, "batch", 4))]
    assert [(port.name, port.shape) for port in graph.outputs] == [("y", ("batch", "time", 2)), ("hn", (1, "batch", 4))]
    check_steps(tmp_path / "fp32", graph)
    assert set(onnx_file.sizes(found)) == {"m.onnx"}


def test_time_may_come_first(tmp_path: Path) -> None:
    answers = []
    for order, shapes in (
        ("rows first", USUAL),
        ("time first", USUAL | {"series": ["t", "n", 2], "answer": ["t", "n", 2]}),
    ):
        _, graph = built(written(tmp_path, shapes, nodes(order)))
        assert graph.inputs[0].shape == ("batch", "time", 2)
        check_steps(tmp_path / "fp32", graph)
        session = registry.find("targets", "cpu").open(tmp_path / "fp32", graph, Recipe(), threads=1)
        answers.append(session.run({"x": np.ones((3, 5, 2), np.float32)})[0]["y"].copy())
        session.close()
    np.testing.assert_array_equal(*answers)


def test_a_graph_for_one_row_stays_one(tmp_path: Path) -> None:
    fixed = {"series": [1, "t", 2], "h0": [1, 1, 4], "answer": [1, "t", 2], "hn": [1, 1, 4]}
    _, graph = built(written(tmp_path, fixed))
    assert graph.inputs[0].shape == (1, "time", 2)
    check_steps(tmp_path / "fp32", graph)


@pytest.mark.parametrize(
    ("states", "error", "why"),
    [
        ({"h1": "hn"}, UsageError, "the state hn=h1: there is no input 'h1'"),
        ({"h0": "cn"}, UsageError, "the state cn=h0: there is no output 'cn'"),
        ({"h0": "hn", "series": "hn"}, UsageError, "two states name the same output"),
        ({"h0": "hn", "series": "answer"}, UnsupportedError, "has no other input"),
    ],
)
def test_names_that_are_not_there(tmp_path: Path, states: dict[str, str], error: type[EdgeKitError], why: str) -> None:
    with pytest.raises(error, match=why) as caught:
        resolve.resolve(str(written(tmp_path)), states=states)
    assert "its inputs are series, h0; its outputs answer, hn" in caught.value.hint


def test_a_second_input_without_the_axes_of_the_first(tmp_path: Path) -> None:
    error = refused(written(tmp_path, {"gain": [1]}), UnsupportedError, r"the input 'gain' has the shape \[1\]")
    assert "--input gain=VALUE" in error.hint


WRONG: list[tuple[Shapes, str]] = [
    ({"series": ["n", 3, "t", 2]}, r"'series' has the shape \['n', 3, 't', 2\]"),
    ({"series": ["n", "t", "wide"]}, "the number of features of 'series' is not fixed"),
    ({"answer": ["n", "t", "wide"]}, "the number of results of 'answer' is not fixed"),
    ({"series": ["n", 7, 2]}, "takes 7 steps at once"),
    ({"hn": [1, "n", 5]}, r"goes in as \[1, 'n', 4\] and comes out as \[1, 'n', 5\]"),
    ({"h0": ["past", "n", 4], "hn": ["total", "n", 4]}, "goes in as"),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "why"), WRONG, ids=lambda value: str(value)[:30])
def test_ports_that_are_no_streams(tmp_path: Path, shapes: Shapes, why: str) -> None:
    refused(written(tmp_path, shapes), UnsupportedError, why)


def test_states_that_are_not_float32(tmp_path: Path) -> None:
    refused(written(tmp_path, h0=onnx.TensorProto.DOUBLE), UnsupportedError, "'h0' is DOUBLE")


def test_a_weight_that_is_no_number(tmp_path: Path) -> None:
    spoiled = weights(R=np.full((1, 4, 4), np.nan, np.float32))
    assert refused(written(tmp_path, tensors=spoiled), VerificationError, "'R' holds a NaN").exit_code == 5


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_an_old_opset_is_raised(tmp_path: Path, opset: int) -> None:
    """Squeeze and Slice took attributes then, and weights in blocks came with 21."""
    made = nodes() if opset >= 13 else old_nodes()
    path = written(tmp_path, made=made, opset=opset)
    _, graph = built(path)
    check_steps(tmp_path / "fp32", graph)
    hold_against_torch([graph], tmp_path / "fp32", ("cpu", "openvino"), lambda what: None)
    assert graphs.load(tmp_path / "fp32" / graph.path).graph.opset_imports[""] == 21


def test_a_value_that_two_nodes_write(tmp_path: Path) -> None:
    twice = [*nodes(), onnx.helper.make_node("Identity", ["x"], ["steps"])]
    error = refused(
        written(tmp_path, made=twice), BundleError, r"m\.onnx: it is not valid ONNX: the value .* has two sources"
    )
    assert error.exit_code == 6


def test_two_inputs_of_one_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    model = onnx.load(path)
    model.graph.input.append(model.graph.input[0])
    onnx.save(model, path)
    assert refused(path, BundleError, r"m\.onnx").exit_code == 6


def test_a_cycle(tmp_path: Path) -> None:
    around = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    assert refused(written(tmp_path, made=[*nodes(), *around]), BundleError, r"m\.onnx").exit_code == 6


@pytest.mark.parametrize(
    ("inputs", "shapes", "why"),
    [
        ({"rate": 1}, {}, "--input rate: there is no input 'rate'"),
        ({"series": "fast"}, {}, "'fast' is not float32"),
        ({"series": [[1], [1, 2]]}, {}, "is not float32"),
        ({"series": True}, {}, "True is not float32"),
        ({"series": 1e300}, {}, "is not finite as float32"),
        ({"series": [0.0] * 20_000}, {}, "has 20000 numbers, and 16384 are allowed"),
        ({}, {"rate": [1]}, "--shape rate: there is no input 'rate'"),
        ({}, {"series": [0, 1, 2]}, "is not a shape"),
        ({}, {"series": []}, "is not a shape"),
    ],
)
def test_constants_and_shapes_that_cannot_be(
    tmp_path: Path, inputs: dict[str, Any], shapes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        resolve.resolve(str(written(tmp_path)), states=STATES, inputs=inputs, shapes=shapes)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"inputs": {"gain": [1, 2, 3]}}, r"'gain' has the shape \[3\]"),
        ({"shapes": {"series": ["n", "t"]}}, "cannot have the shape"),
        ({"shapes": {"series": ["n", "t", 3]}}, "cannot have the shape"),
    ],
)
def test_constants_and_shapes_of_another_rank(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    path = written(tmp_path, {"gain": [2]})
    inputs = {"gain": [1, 2]} | options.get("inputs", {})
    found = resolve.resolve(str(path), states=STATES, inputs=inputs, shapes=options.get("shapes"))
    with pytest.raises(UsageError, match=why):
        registry.exporter(found.arch).graphs(found, "any", Recipe(), tmp_path, lambda what: None)


def test_an_input_that_holds_no_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, {"words": [1]}, words=onnx.TensorProto.STRING)
    with pytest.raises(UnsupportedError, match="the port 'words' holds strings"):
        resolve.resolve(str(path), states=STATES)


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no")
    refused(tmp_path / "m.onnx", BundleError, "m.onnx")


def test_states_are_for_onnx_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zoo:parity is not one"):
        resolve.resolve("zoo:parity", states=STATES)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--state", "hn"], "'hn' is not a state"),
        (["--state", "hn=h0", "--state", "cn=h0"], "'h0' is the input of two states"),
        (["--state", "hn=h1"], "there is no input 'h1'"),
        (["--input", "sr"], "'sr' is not a constant input"),
        (["--input", "sr=fast"], "'sr=fast' is not a constant input"),
        (["--input", "sr=NaN"], "'sr=NaN' is not a constant input"),
        (["--shape", "x=1,-2"], "'x=1,-2' is not a shape"),
    ],
)
def test_the_command_says_what_there_is(tmp_path: Path, call: Call, options: list[str], why: str) -> None:
    ended = call("export", str(written(tmp_path)), "-o", str(tmp_path / "m.ek"), "--json", *options)
    assert ended.code == 2
    assert why in ended.json["error"]["message"]


def test_weights_with_a_second_name_on_the_disk(tmp_path: Path) -> None:
    """They could be another file of this machine, which the graph would then read out."""
    model = onnx.load(written(tmp_path))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "other").hardlink_to(tmp_path / "w.bin")
    with pytest.raises(BundleError, match="a hard link") as caught:
        resolve.resolve(str(tmp_path / "m.onnx"), states=STATES)
    assert "copy" in caught.value.hint
