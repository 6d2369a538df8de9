"""ONNX files with states that the user names: what of their ports and options is refused, and what is put right."""

from __future__ import annotations

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
from edgekit.workbench.prove import check_steps

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
        ({}, UnsupportedError, "only if it has states"),
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


def test_a_second_input_that_is_no_state(tmp_path: Path) -> None:
    path = written(tmp_path, {"gain": [1]})
    refused(path, UnsupportedError, r"2 inputs that are not states \(series, gain\)")


WRONG: list[tuple[Shapes, str]] = [
    ({"series": ["n", 3, "t", 2]}, r"'series' has the shape \['n', 3, 't', 2\]"),
    ({"series": ["n", "t", "wide"]}, "how many the features 'series' has is not fixed"),
    ({"answer": ["n", "t", "wide"]}, "how many the results 'answer' has is not fixed"),
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


def test_a_file_that_is_too_old_for_blocks(tmp_path: Path) -> None:
    path = written(tmp_path, opset=17)
    built(path)
    refused(path, UnsupportedError, "opset 17", Recipe(weights="int8", method="rtn"))


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
