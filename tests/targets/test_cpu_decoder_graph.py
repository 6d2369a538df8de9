"""The portable decoder rewritten for ONNX Runtime: what it is made of afterwards, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_decoder import HEAD, TABLE, Shape, write

from edgekit import registry
from edgekit.bundle import onnx_file
from edgekit.core import Recipe
from edgekit.errors import UnsupportedError
from edgekit.targets._ort.passes.decoder_graph import group_queries
from edgekit.workbench import graph

CPU = registry.find("targets", "cpu")


def compiled(folder: Path, shape: Shape) -> Any:
    return CPU.compile(graph.load(folder / write(folder, shape).path), Recipe(), kind="decoder")


def ops(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def attributes(model: Any, name: str) -> dict[str, Any]:
    node = next(node for node in model.graph if node.name == name)
    return {key: attribute.value for key, attribute in node.attributes.items()}


def test_masks_repeats_and_rotations_vanish(tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape())
    assert ops(model) == {
        "Gather": 1, "RMSNormalization": 5, "MatMul": 13, "GroupQueryAttention": 2, "Add": 4, "Sigmoid": 2, "Mul": 4,
        "Unsqueeze": 1, "GatherND": 1,
    }  # fmt: skip
    assert [value.name for value in model.graph.inputs] == [
        "input_ids", "logit_positions", "seqlens_k", "total_sequence_length",
        "past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key", "past_key_values.1.value",
    ]  # fmt: skip
    assert [value.name for value in model.graph.outputs] == [
        "logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value",
    ]  # fmt: skip
    for port in graph.describe(model, "model", "model.onnx", {}).outputs[1:]:
        assert port.shape == ("batch", 2, "capacity", 32)
    assert not {"ints.0.4.-1.32", "axis"} & model.graph.initializers.keys()


@pytest.mark.parametrize(
    ("shape", "positions", "rotary"),
    [
        (Shape(), False, 1),
        (Shape(interleaved=True), False, 1),
        (Shape(rotary=16), False, 1),
        (Shape(rotary=8), True, 0),  # narrower than its tables may be
        (Shape(stretched=TABLE), True, 0),  # no plain table
        (Shape(rotary=0), True, 0),  # learned
    ],
)
def test_positions_are_an_input_only_where_something_reads_them(
    shape: Shape, positions: bool, rotary: int, tmp_path: Path
) -> None:
    model = compiled(tmp_path, shape)
    assert ("position_ids" in [value.name for value in model.graph.inputs]) == positions
    assert attributes(model, "layers.1.attention")["do_rotary"] == rotary
    assert ops(model)["RotaryEmbedding"] == (4 if shape.rotary and not rotary else 0)


def test_a_query_and_a_key_that_turn_by_different_tables_keep_their_nodes(tmp_path: Path) -> None:
    model = graph.load(tmp_path / write(tmp_path, Shape()).path)
    turn = find(model, "layers.1.k_rotary")
    turn.replace_input_with(1, turn.inputs[2])
    model = CPU.compile(model, Recipe(), kind="decoder")
    assert [attributes(model, f"layers.{layer}.attention")["do_rotary"] for layer in (0, 1)] == [1, 0]


def test_attributes_say_what_the_mask_and_the_attention_said(tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape(windows=(None, 7), softcap=30.0, scale=0.25, interleaved=True))
    wanted = {
        "num_heads": 4, "kv_num_heads": 2, "scale": 1.0, "softcap": 30.0, "local_window_size": -1, "do_rotary": 1,
        "rotary_interleaved": 1,
    }  # fmt: skip
    assert attributes(model, "layers.0.attention") == wanted
    assert attributes(model, "layers.1.attention") == wanted | {"local_window_size": 7}
    (query, factor), attention = find(model, "layers.0.attention.scaled").inputs, find(model, "layers.0.attention")
    assert query.producer().name == "layers.0.q_proj"
    assert factor.const_value.numpy() == 0.25
    assert attention.inputs[0].producer() is find(model, "layers.0.attention.scaled")


def test_queries_in_one_piece_with_keys_and_values_are_scaled_alone(tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape(scale=0.25, weights="int4"))
    scaled, attention = find(model, "layers.0.attention.scaled"), find(model, "layers.0.attention")
    assert scaled.inputs[1].const_value.numpy().tolist() == [0.25] * 4 * HEAD + [1] * 2 * 2 * HEAD
    assert attention.inputs[0].producer() is scaled
    assert attention.attributes["scale"].value == 1


@pytest.mark.parametrize(("weights", "apart"), [("float32", True), ("int4", False)])
def test_the_three_stay_apart_where_this_form_reads_prompts_too(weights: str, apart: bool, tmp_path: Path) -> None:
    """Of many tokens, attention is slower in one piece."""
    model = compiled(tmp_path, Shape(together=True, weights=weights))
    assert (find(model, "layers.0.attention").inputs[1] is not None) == apart
    if prompt := CPU.prompt(model):
        assert find(prompt, "layers.0.attention").inputs[1] is not None


def reads(model: Any, layer: int) -> Any:
    """The node that gives what a layer's attention reads, which is one piece."""
    read, *others = find(model, f"layers.{layer}.attention").inputs[:3]
    assert others == [None, None]
    return read.producer()


def test_one_product_goes_into_attention_as_it_is(tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape(together=True, scale=1.0, weights="int4"))
    assert [reads(model, layer).name for layer in (0, 1)] == ["layers.0.qkv", "layers.1.qkv"]
    assert "Split" not in ops(model)


def test_what_are_products_of_their_own_is_joined(tmp_path: Path) -> None:
    joined = reads(compiled(tmp_path, Shape(scale=1.0, weights="int4")), 0)
    assert joined.op_type == "Concat"
    assert [value.producer().name for value in joined.inputs] == [f"layers.0.{each}_proj" for each in "qkv"]


def test_heads_of_queries_and_keys_go_through_one_norm_that_scales_queries(tmp_path: Path) -> None:
    shape = Shape(together=True, head_norm=True, scale=0.25, weights="int4")
    before, model = graph.load(tmp_path / write(tmp_path, shape).path), compiled(tmp_path, shape)
    assert ops(model)["RMSNormalization"] == 2 * (2 + 1) + 1
    assert attributes(model, "layers.1.attention")["scale"] == 1
    query, key = (find(before, f"layers.1.{each}_norm").inputs[1].const_value.numpy() for each in "qk")
    norm = find(model, "layers.1.attention.norm")
    np.testing.assert_array_equal(norm.inputs[1].const_value.numpy(), [query * 0.25] * 4 + [key] * 2)
    assert norm.attributes["epsilon"].value == np.float32(1e-6)


def other_epsilon(model: Any) -> None:
    import onnx_ir as ir

    find(model, "layers.0.k_norm").attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def keys_alone(model: Any) -> None:
    norm = find(model, "layers.0.q_norm")
    norm.outputs[0].replace_all_uses_with(norm.inputs[0])


def negate(node: Any, place: int) -> None:
    """What the node reads there is computed now."""
    (negated,) = graph.op(node, "Neg", [node.inputs[place]], name=f"{node.name}.negated")
    node.replace_input_with(place, negated)


def computed_weight(model: Any) -> None:
    negate(find(model, "layers.0.q_norm"), 1)


def whole_width(model: Any) -> None:
    """As olmo2 has it."""
    for name, heads in (("q", 4), ("k", 2)):
        norm = find(model, f"layers.0.{name}_norm")
        split, flat = norm.inputs[0].producer(), norm.inputs[0].producer().inputs[0]
        weight = graph.initializer(model, f"{name}.wide", np.tile(norm.inputs[1].const_value.numpy(), heads))
        (wide,) = graph.op(split, "RMSNormalization", [flat, weight], norm.attributes, name=f"{name}.wide_norm")
        split.replace_input_with(0, wide)
        norm.outputs[0].replace_all_uses_with(norm.inputs[0])


@pytest.mark.parametrize("change", [other_epsilon, keys_alone, computed_weight, whole_width])
def test_other_norms_stay_as_they_are(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = graph.load(tmp_path / write(tmp_path, Shape(together=True, head_norm=True, weights="int4")).path)
    change(model)
    model = CPU.compile(model, Recipe(), kind="decoder")
    assert reads(model, 0).name == "layers.0.attention.scaled"
    assert find(model, "layers.0.attention.packed").op_type == "Concat"
    assert find(model, "layers.1.attention.norm").op_type == "RMSNormalization"
    ort.InferenceSession(graph.to_bytes(model))


def test_attention_takes_the_kernel_for_heads_with_a_sink_that_takes_nothing(tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape(scale=1.0))
    for layer in (0, 1):
        sink = find(model, f"layers.{layer}.attention").inputs[11].const_value.numpy()
        assert (sink == -np.inf).all()
        assert sink.shape == (4,)
    assert "layers.0.attention.scaled" not in [node.name for node in model.graph], "there is nothing to scale by"


def test_a_bundle_may_hold_what_comes_out(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph.to_bytes(compiled(tmp_path, Shape(weights="int4", tied=True))))
    facts = onnx_file.check(tmp_path, "model.onnx", ())
    assert facts.ops["com.microsoft", "GroupQueryAttention"] == 2
    assert facts.ops["com.microsoft", "MatMulNBits"] == 1


def find(model: Any, name: str) -> Any:
    return next(node for node in model.graph if node.name == name)


def reads_mask_elsewhere(model: Any) -> None:
    import onnx_ir as ir

    node = ir.node("Cast", [model.graph.inputs[2]], {"to": ir.DataType.FLOAT})
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])


def reads_a_past_elsewhere(model: Any) -> None:
    import onnx_ir as ir

    past = next(value for value in model.graph.inputs if value.name == "past_key_values.1.key")
    node = ir.node("Neg", [past])
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])


def no_cache(model: Any) -> None:
    cache = find(model, "layers.1.value_cache")
    cache.replace_input_with(0, cache.inputs[1])


def cache_is_changed(model: Any) -> None:
    negate(find(model, "layers.1.attention"), 1)


def output_is_read_twice(model: Any) -> None:
    import onnx_ir as ir

    attention = find(model, "layers.0.attention")
    node = ir.node("Identity", [attention.outputs[0]])
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])


def heads_of_twelve(model: Any) -> None:
    import onnx_ir as ir

    past = next(value for value in model.graph.inputs if value.name == "past_key_values.0.key")
    past.shape = ir.Shape(["batch", 2, "past", 12])


def heads_are_not_split(model: Any) -> None:
    import onnx_ir as ir

    rotary = find(model, "layers.0.q_rotary")
    heads = ir.Value(name="heads", type=ir.TensorType(ir.DataType.FLOAT))  # of no known shape
    model.graph.inputs.append(heads)
    rotary.replace_input_with(0, heads)


def another_name(model: Any) -> None:
    find(model, "layers.1.attention").name = "node_Attention_7"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_name, "what the mask of 'node_Attention_7' means"),
        (reads_mask_elsewhere, "attention_mask is read by something else than attention"),
        (reads_a_past_elsewhere, "past_key_values.1.key is read by something else than attention"),
        (no_cache, "does not read a cache"),
        (cache_is_changed, "does not read a cache"),
        (output_is_read_twice, "not followed by one Transpose and one Reshape"),
        (heads_of_twelve, "heads of 12 are not a multiple of 8"),
        (heads_are_not_split, "nothing splits"),
    ],
)
def test_another_wiring_is_refused(spoil: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    model = graph.load(tmp_path / write(tmp_path, Shape()).path)
    spoil(model)
    with pytest.raises(UnsupportedError, match=message):
        group_queries(model)


def head(folder: Path, kind: int, block: int, *, outside: bool) -> tuple[Any, Any]:
    """y = x @ dequantized(table).T as a model, its table in a file of its own or not; and as a function of numpy."""
    outputs, inputs, largest = 48, 512, 7 if kind == TensorProto.INT4 else 127
    draw = np.random.default_rng(3)
    whole = draw.integers(-largest - 1, largest + 1, (outputs, inputs))
    scale = draw.uniform(-0.02, 0.02, (outputs, inputs // block)).astype(np.float32)
    data: Any = whole.astype(np.int8).view(np.uint8)
    if kind == TensorProto.INT4:
        data = (data[:, 0::2] & 15) | (data[:, 1::2] << 4)
    made = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["table", "scale"], ["w"], axis=1, block_size=block),
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"], "lm_head"),
        ],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [
            helper.make_tensor("table", kind, whole.shape, data.tobytes(), raw=True),
            numpy_helper.from_array(scale, "scale"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, folder / "head.onnx", save_as_external_data=outside, location="head.bin", size_threshold=0)
    weight = whole * np.repeat(scale, block, axis=1)
    return graph.load(folder / "head.onnx"), lambda x: x @ weight.T


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.INT8])
@pytest.mark.parametrize("block", [16, 32, 128, 512])
def test_a_transposed_table_becomes_one_product(kind: int, block: int, outside: bool, tmp_path: Path) -> None:
    from edgekit.targets._ort.passes.nbits import transposed_tables  # type: ignore[import-not-found]

    model, wanted = head(tmp_path, kind, block, outside=outside)
    transposed_tables(model)
    assert ops(model) == {"BitwiseXor": 1, "MatMulNBits": 1}
    (tmp_path / "model.onnx").write_bytes(graph.to_bytes(model))
    x = np.random.default_rng(4).normal(size=(3, 512)).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    found = ort.InferenceSession(tmp_path / "model.onnx", options).run(None, {"x": x})[0]
    # Activations are rounded to 8 bits in each block.
    assert np.abs(found - wanted(x)).max() < 0.05 * wanted(x).std()
    left = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    assert [node.op_type for node in left] == ["MatMulNBits"]  # the signs are flipped once, when it opens


def test_a_table_shared_with_a_file_stays_there(tmp_path: Path) -> None:
    from edgekit.targets._ort.passes.nbits import transposed_tables

    model, _ = head(tmp_path, TensorProto.INT4, 32, outside=True)
    before = model.graph.initializers["table"].const_value
    transposed_tables(model)
    after = model.graph.initializers["table.blocks"].const_value
    assert (after.location, after.offset, after.length) == (before.location, before.offset, before.length)
    assert tuple(after.shape) == (48, 16, 16)


def test_blocks_that_no_kernel_knows_are_left(tmp_path: Path) -> None:
    from edgekit.targets._ort.passes.nbits import transposed_tables

    model, _ = head(tmp_path, TensorProto.INT8, 8, outside=False)
    transposed_tables(model)
    assert ops(model) == {"DequantizeLinear": 1, "Transpose": 1, "MatMul": 1}
