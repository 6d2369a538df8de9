from __future__ import annotations

import contextlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from edgekit import limits
from edgekit.bundle import onnx_file, protobuf, safe_files
from edgekit.errors import BundleError, DeviceError, EdgeKitError

protobuf_message = pytest.importorskip("google.protobuf.message", reason="comes with onnx")
onnx = pytest.importorskip("onnx", reason="the reader is held against the onnx package")

from make_onnx import (  # noqa: E402
    WEIGHTS,
    T,
    branch,
    build,
    constant,
    function,
    helper,
    nested,
    outside,
    save,
    seen_by_onnx,
    sparse,
)


def check(folder: Path) -> onnx_file.Facts:
    return onnx_file.check(folder, "m.onnx", set(safe_files.walk(folder)))


# What it says


def test_the_widest_value_and_what_is_dequantized(tmp_path: Path) -> None:
    """A value counts if only its first axis is free; a shape of absurd rank does not, nor an initializer's."""
    shapes = {
        "a": ["batch", 3, 8], "b": ["batch", 4, 4], "c": ["batch", "tokens", 999], "d": [7, 999], "e": [],
        "f": ["batch", *[2] * limits.TENSOR_RANK],
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale"], ["a"]),
        helper.make_node("DequantizeLinear", ["x", "scale"], ["b"], domain="com.microsoft"),
        helper.make_node("Relu", ["w"], ["c"]),
    ]
    model = build(nodes=tuple(nodes))
    model.graph.value_info.extend(helper.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in shapes.items())
    model.graph.value_info.append(helper.make_tensor_value_info("unknown", T.FLOAT, None))
    save(tmp_path, model)
    facts = onnx_file.read(tmp_path, "m.onnx")
    assert facts.widest == 3 * 8 * 4
    assert facts.dequantized == {"w8", "x"}


def rich() -> Any:
    """A model with everything that the reader looks at."""
    branches = _body(outside("w2", offset="32", dims=(8,))), _body(helper.make_tensor("k", T.INT4, [3], [1, 2, 3]))
    nodes = (
        helper.make_node("If", ["x"], ["o"], then_branch=branches[0], else_branch=branches[1]),
        constant(outside("w3", dtype=T.UINT8, dims=(60,), offset="4")),
        constant(sparse(helper.make_tensor("v", T.FLOAT, [16], WEIGHTS)), "c2"),
        helper.make_node("Gelu", ["x"], ["q"], domain="com.microsoft"),
        helper.make_node("aten_relu", ["x"], ["z"], domain="pkg.onnxscript.torch_lib"),
        helper.make_node("Relu", ["x"], ["p"], domain="ai.onnx"),
    )
    tensors = (
        outside(length="64", checksum="0" * 40),
        helper.make_tensor("s", T.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("r", T.FLOAT16, [2, 2], np.ones((2, 2), np.float16)),
        helper.make_tensor("e", T.FLOAT, [0], []),
    )
    opsets = {"": 21, "com.microsoft": 1, "pkg.onnxscript.torch_lib": 1}
    model = build(
        *tensors,
        nodes=nodes,
        functions=(function("aten_relu", "inner"), function("inner")),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
    )
    model.metadata_props.add(key="note", value="x" * 100_000)
    model.graph.input.append(helper.make_tensor_value_info("s", T.STRING, [2]))  # an input with a default, as of old
    model.graph.input.append(helper.make_tensor_sequence_value_info("list", T.FLOAT, None))
    return model


def _body(tensor: Any) -> Any:
    out = helper.make_tensor_value_info("o", T.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", [tensor.name], ["o"])], "b", [], [out], [tensor])


def relu(source: str, out: str) -> Any:
    return helper.make_node("Relu", [source], [out], name="NODE")


def two_inputs() -> Any:
    model = build()
    model.graph.input.append(helper.make_tensor_value_info("x", T.FLOAT, [1]))
    return model


def odd_names(name: str) -> bytes:
    """A file in which these four letters are bytes that are no text."""
    model = build(nodes=(relu("x", "VALUE"),))
    model.graph.value_info.append(helper.make_tensor_value_info("NOTE", T.FLOAT, [1]))
    data: bytes = model.SerializeToString()
    assert name.encode() in data
    return data.replace(name.encode(), b"\xff" * len(name))


def test_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    save(tmp_path, build(nodes=(relu("b", "c"), relu("x", "b"))))
    assert check(tmp_path).nodes == 3


def test_facts_are_those_of_the_onnx_package(tmp_path: Path) -> None:
    model = rich()
    save(tmp_path, model)
    facts = check(tmp_path)
    ops, external = seen_by_onnx(model)
    assert facts.ops == dict(ops)
    assert facts.nodes == sum(ops.values())
    assert {(one.tensor, one.location, one.offset) for one in facts.external} == external
    assert [one.size for one in facts.external] == [32, 60, 64]  # subgraph, Constant, initializer: the file's order
    assert facts.inputs == {"x": "float32", "list": ""}
    assert facts.outputs == {"y": "float32"}
    assert (facts.depth, facts.ir_version, facts.opsets[""], facts.metadata) == (1, 10, 21, ("note",))
    assert {name for _, name in facts.functions} == {"aten_relu", "inner"}


def test_every_dtype_has_onnx_name_and_size() -> None:
    for name, number in T.DataType.items():
        if number in (T.UNDEFINED, T.STRING):
            continue
        ours, bits = onnx_file.DTYPES[number]
        assert ours == helper.tensor_dtype_to_np_dtype(number).name, name
        raw = onnx.numpy_helper.from_array(np.zeros(24, helper.tensor_dtype_to_np_dtype(number))).raw_data
        assert len(raw) * 8 == 24 * bits, name


def test_old_and_packed_spellings_of_dims_are_the_same(tmp_path: Path) -> None:
    model = build(outside(dims=(4, 4)))
    data = model.SerializeToString()
    one_by_one, packed = b"\x08\x04\x08\x04", b"\x0a\x02\x04\x04"
    assert one_by_one in data
    for spelling in (one_by_one, packed):
        save(tmp_path, data.replace(one_by_one, spelling))
        assert [one.size for one in check(tmp_path).external] == [64]


def test_a_large_file_costs_no_memory(tmp_path: Path) -> None:
    save(tmp_path, build(helper.make_tensor("w", T.FLOAT, [1 << 22], b"\0" * (1 << 24), raw=True)))
    tracemalloc.start()
    try:
        assert check(tmp_path).nodes == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# What it refuses


REFUSED = {
    "parent": (build(outside(location="../secret")), "unsafe path"),
    "absolute": (build(outside(location="/etc/hostname")), "unsafe path"),
    "uri": (build(outside(location="file:///etc/hostname")), "unsafe path"),
    "no location": (build(outside(location="")), "unsafe path"),
    "not listed": (build(outside(location="other.bin")), "not a file of this bundle"),
    "engine memory": (build(outside(location="*/_ORT_MEM_ADDR_/*")), "engine's memory"),
    "sparse": (build(nodes=(constant(sparse(outside(location="../secret"))),)), "sparse tensor with external"),
    "constant": (build(nodes=(constant(outside(location="../secret")),)), "unsafe path"),
    "beyond the end": (build(outside(dims=(17,))), "wants bytes 0 to 68 of 'weights.bin', which has 64"),
    "offset beyond": (build(outside(offset="4")), "wants bytes 4 to 68"),
    "negative offset": (build(outside(offset="-4")), "offset '-4'"),
    "huge length": (build(outside(length=str(2**42))), "length 4398046511104"),
    "short length": (build(outside(length="60")), "length 60"),
    "odd number": (build(outside(offset=" 0x10")), "offset ' 0x10'"),
    "unknown key": (build(outside(__class__="x")), "unknown key"),
    "huge dims": (build(outside(dims=(2**32, 2**32))), "has the shape"),
    "negative dim": (build(outside(dims=(-1,))), "has the shape"),
    "many dims": (build(outside(dims=(1,) * 65)), "has the shape"),
    "dims bomb inside": (build(T(name="w", dims=[2**31, 2**31], data_type=T.FLOAT)), "too few or"),
    "raw of other size": (build(T(name="w", dims=[4], data_type=T.FLOAT, raw_data=b"123")), "too many bytes"),
    "sparse bomb": (build(nodes=(constant(sparse(helper.make_tensor("v", T.FLOAT, [16], WEIGHTS), (2**31,))),)),
                    "a sparse tensor has more"),
    "text outside": (build(outside(dtype=T.STRING)), "cannot be external"),
    "unknown dtype": (build(T(name="w", data_type=99)), "unknown data type 99"),
    "empty": (b"", "no graph"),
    "noise": (bytes(range(256)) * 9, "not valid ONNX"),
    "truncated": (rich().SerializeToString()[:-70_000], "not valid ONNX"),
    "unknown domain": (build(nodes=(helper.make_node("Evil", ["x"], ["z"], domain="custom"),)), "custom::Evil"),
    "python": (build(nodes=(helper.make_node("PyOp", ["x"], ["z"], domain="com.microsoft"),)), "PyOp"),
    "lookalike domain": (build(nodes=(helper.make_node("F", ["x"], ["z"], domain="pkg.onnxscriptevil"),)), "not allow"),
    "function domain": (build(functions=(function("F", domain="custom"),)), "custom::F"),
    "function calls itself": (build(functions=(function("a", "b"), function("b", "a"))), "call themselves"),
    "function bomb": (build(functions=tuple(function(f"f{n}", *[f"f{n + 1}"] * 9) for n in range(9))), "expanded"),
    "deep": (nested(limits.SUBGRAPH_DEPTH + 1), "nest deeper than 16"),
    "very deep": (nested(20_000), "nest deeper than 16"),
    "a value of two nodes": (build(nodes=(relu("x", "z"), relu("x", "z"))), "the value 'z' has two sources"),
    "a value of a node and an input": (build(nodes=(relu("y", "x"),)), "the value 'x' has two sources"),
    "a value of a node and a tensor": (build(outside(), nodes=(relu("x", "w"),)), "the value 'w' has two sources"),
    "two inputs of one name": (two_inputs(), "two inputs or two outputs have the name 'x'"),
    "a circle": (build(nodes=(relu("b", "a"), relu("a", "b"))), "the value '[ab]' depends on itself"),
    "a node that reads itself": (build(nodes=(relu("a", "a"),)), "the value 'a' depends on itself"),
    "a value whose name is not text": (odd_names("VALUE"), "is not UTF-8"),
    "a node whose name is not text": (odd_names("NODE"), "is not UTF-8"),
    "a note whose name is not text": (odd_names("NOTE"), "is not UTF-8"),
    "no ir version": (build(ir_version=0), "no IR version"),
    "no opset": (build(opset_imports=[helper.make_opsetid("", 0)]), "no opset"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_files_are_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    model, message = REFUSED[case]
    folder = tmp_path / "bundle"
    folder.mkdir()
    save(folder, model)
    with pytest.raises(BundleError, match=message) as caught:
        check(folder)
    assert caught.value.exit_code == 6
    assert "the secret" not in str(caught.value)


def test_links_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "bundle"
    folder.mkdir()
    weights = folder / "weights.bin"
    weights.symlink_to("../away/weights.bin")
    save(folder, build(outside()))
    with pytest.raises(BundleError, match="symbolic link"):
        check(folder)
    weights.unlink()
    os.link(tmp_path / "away" / "weights.bin", weights)
    with pytest.raises(BundleError, match="hard link"):
        check(folder)
    assert onnx_file.check(folder, "m.onnx", {"weights.bin"}, hard_links=True).nodes == 1
    (folder / "sub").symlink_to("../away")
    save(folder, build(outside(location="sub/weights.bin")))
    with pytest.raises(BundleError, match="sub is a symbolic link"):
        onnx_file.check(folder, "m.onnx", {"sub/weights.bin"})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (build(ir_version=99), "IR version 99; the engines of this EdgeKit support up to 13"),
        (build(opset_imports=[helper.make_opsetid("", 99)]), "opset of ai.onnx 99"),
        (build(opset_imports=[helper.make_opsetid("com.microsoft", 2)]), "opset of com.microsoft 2"),
    ],
)
def test_newer_files_need_newer_engines(model: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path, model)
    with pytest.raises(DeviceError, match=message) as caught:
        check(tmp_path)
    assert caught.value.exit_code == 8


def test_tensors_in_every_place_are_found(tmp_path: Path) -> None:
    hidden = function("f", "g")
    hidden.attribute_proto.append(helper.make_attribute("default", outside(location="../secret")))
    in_graph = build()
    in_graph.graph.sparse_initializer.append(sparse(outside(location="../secret")))
    listed = build()
    listed.graph.node[0].attribute.append(helper.make_attribute("tensors", [outside(location="../secret")]))
    for model in (build(functions=(hidden,)), in_graph, listed):
        save(tmp_path, model)
        with pytest.raises(BundleError, match=r"unsafe path|sparse tensor with external"):
            check(tmp_path)


def test_metadata_must_not_set_engine_options(tmp_path: Path) -> None:
    model = build()
    model.metadata_props.add(key="ort_config", value="{}")
    save(tmp_path, model)
    with pytest.raises(BundleError, match="ort_config"):
        check(tmp_path)
    del model.metadata_props[:]
    model.training_info.add()
    save(tmp_path, model)
    with pytest.raises(BundleError, match="training"):
        check(tmp_path)


def test_two_answers_to_one_question_are_refused(tmp_path: Path) -> None:
    twice = outside()
    twice.external_data.add(key="location", value="../secret")
    both = outside()
    both.raw_data = WEIGHTS.tobytes()
    for model, message in ((build(twice), "location twice"), (build(both), "here as well")):
        save(tmp_path, model)
        with pytest.raises(BundleError, match=message):
            check(tmp_path)
    graph = build().SerializeToString()
    save(tmp_path, graph + graph)
    with pytest.raises(BundleError, match=r"ir_version at byte .* there twice"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x3a\xff\xff\xff\xff\x0f", "does not fit"),
        (b"\x02\x00", "does not fit"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "does not end"),
        (b"\x08", "does not end"),
        (b"\x0a\x00", "wrong type"),
        (b"\x42\x03\x0a\x01\xff", "not UTF-8"),
        (b"\x25\x00\x00\x00\x00" * 3 + b"\x21", "does not fit"),
    ],
)
def test_bad_wire_format(data: bytes, message: str, tmp_path: Path) -> None:
    save(tmp_path, data)
    with pytest.raises(BundleError, match=message):
        check(tmp_path)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = helper.make_node("Relu", ["x"], ["z"])
    packed = build(T(name="w", data_type=T.FLOAT)).SerializeToString()
    cases = [
        (build(nodes=(node,) * 20), "GRAPH_NODES", 20, "more than 20 nodes"),
        (build(nodes=(node,) * 20), "GRAPH_FIELDS", 50, "more than 50 fields"),
        (build(*[outside(name) for name in "abc"]), "GRAPH_TENSORS", 2, "more than 2 tensors"),
        (build(functions=(function("f"), function("g"))), "GRAPH_NODES", 1, "more than 1 functions"),
        (build(outside(name="w" * 30)), "NAME_BYTES", 29, "a name of 30 bytes"),
        (build(outside()), "GRAPH_FILE_BYTES", 10, "more than protobuf allows"),
        (packed.replace(b"\x10\x01B\x01w", b"\x0a\x03\x01\x01\x01"), "TENSOR_RANK", 2, "more than 2 numbers"),
    ]
    for model, name, value, message in cases:
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, value)
            save(tmp_path, model)
            with pytest.raises(BundleError, match=message):
                check(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    save(tmp_path, b"x" * 100)
    with safe_files.open_regular(tmp_path, "m.onnx") as file:
        reader = protobuf.Reader(file)
        os.truncate(tmp_path / "m.onnx", 10)
        with pytest.raises(protobuf.WireError, match="shorter"):
            reader.text(protobuf.Span(0, 50))
        with pytest.raises(protobuf.WireError, match="does not end"):
            list(reader.fields(protobuf.Span(20, 50), {}))


# Whatever the bytes

SEED = build(
    outside(),
    helper.make_tensor("r", T.FLOAT16, [2, 2], np.ones((2, 2), np.float16)),
    nodes=(branch(1), constant(outside("w3", offset="32", dims=(8,)))),
    functions=(function("f", "g"),),
).SerializeToString()


def mutated(draw: st.DrawFn) -> bytes:
    """The seed with one to four small wounds."""
    made = bytearray(SEED)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made) - 1))
        match draw(st.sampled_from(["flip", "set", "cut", "insert", "copy"])):
            case "flip":
                made[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                made[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            case "cut":
                del made[at : at + draw(st.integers(1, 9))]
            case "insert":
                made[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "copy":
                made[at:at] = made[draw(st.integers(0, at)) : at]
    return bytes(made)


@examples(300)
@given(data=st.composite(mutated)())
def test_mutated_files_are_refused_or_mean_what_onnx_reads(data: bytes, tmp_path: Path) -> None:
    save(tmp_path, data)
    try:
        facts = check(tmp_path)
    except EdgeKitError:
        return
    try:
        ops, external = seen_by_onnx(onnx.ModelProto.FromString(data))
    except (protobuf_message.DecodeError, UnicodeDecodeError):
        return  # an engine will not read it either
    assert facts.ops == dict(ops)
    assert external <= {(one.tensor, one.location, one.offset) for one in facts.external}


@examples(200)
@given(noise=st.binary(max_size=200), start=st.sampled_from([b"", b"\x3a", b"\x08\x0a\x3a\x40", SEED[:60]]))
def test_noise_raises_nothing_but_our_errors(noise: bytes, start: bytes, tmp_path: Path) -> None:
    save(tmp_path, start + noise)
    with contextlib.suppress(BundleError, DeviceError):
        check(tmp_path)
