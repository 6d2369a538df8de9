"""Decoders in the cuda target's form: what they compute (on the CPU's kernels for float16), what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from built_decoders import build, caching, config_of, folder_of, generate, prompts
from cuda_forms import CUDA, RECIPES, compiled, on_cpu
from onnx import TensorProto, helper, numpy_helper
from opened_decoder import SHAPES, Opened, drawn, follow, reference
from tiny_decoder import Shape, write

from edgekit.bundle import onnx_file
from edgekit.core import Recipe
from edgekit.errors import UnsupportedError
from edgekit.workbench import graph

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
NEAR = 0.015  # of the spread of logits: float16 has 11 bits, and hidden states of 64 numbers average little out
SPARSE: dict[str, dict[str, Any]] = {  # what a small config leaves out
    "mistral": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "final_logit_softcapping": 30.0},
    "granite": {"logits_scaling": 8.0, "residual_multiplier": 0.22, "embedding_multiplier": 12.0},
}
# Kernels of ONNX Runtime's CUDA provider (docs/OperatorKernels.md; 1.31.1 has these types compiled in).
F32, F16, B16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8}
FLOATS = {F32, F16, B16}
KERNELS: dict[str, set[int]] = {
    **dict.fromkeys(("Add", "Mul", "Div", "Tanh", "Sigmoid", "Relu", "Gelu", "MatMul", "MatMulNBits"), FLOATS),
    **dict.fromkeys(("RMSNormalization", "LayerNormalization", "RotaryEmbedding"), FLOATS),
    **dict.fromkeys(("Gather", "Reshape", "Split", "Transpose", "Unsqueeze", "Cast"), FLOATS | INTEGERS),
    **{name: FLOATS | {TensorProto.INT64} for name in ("GatherND", "Where")},
    **{name: {F32, F16, TensorProto.INT64} for name in ("ReduceMax", "Greater")},
    "DequantizeLinear": {F32, F16},
    "GroupQueryAttention": {F16, B16},
}


def exact(file: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The graph as it is: with optimizers, ONNX Runtime would quantize activations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(file), options)
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def built(folder: Path, arch: str, precision: str) -> Any:
    source = folder_of(folder / "source", config_of(arch, **SPARSE.get(arch, {})))
    return build(source, folder, RECIPES[precision] if precision in ("int8", "int4") else Recipe())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("arch", caching())
def test_every_architecture_gives_what_the_portable_graph_gives(arch: str, precision: str, tmp_path: Path) -> None:
    portable = built(tmp_path, arch, precision)
    session = on_cpu(tmp_path, compiled(tmp_path, portable, precision))
    rows, state = prompts([7, 4, 11]), None
    ids, counts = np.zeros((3, 11), np.int64), np.array([7, 4, 11])
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    for step in generate(exact(tmp_path / portable.path), portable, rows, 4):
        if state is not None:
            ids, counts = np.array([row[-1:] for row in step.rows]), np.ones(3, np.int64)
        outputs, state = session.run({"input_ids": ids, "counts": counts}, state)
        assert outputs["logits"].dtype == np.float32
        assert np.abs(outputs["logits"][:, 0] - step.logits).max() < NEAR * step.logits.std()
    session.close()


@pytest.mark.parametrize("name", SHAPES)
def test_every_wiring_is_right_in_prompts_chunks_and_steps(name: str, tmp_path: Path) -> None:
    shape, draw = SHAPES[name], np.random.default_rng(1)
    portable = write(tmp_path, shape)
    session = on_cpu(tmp_path, compiled(tmp_path, portable, "fp16"))
    whole = reference(tmp_path / portable.path, shape)
    tiny = Opened(tmp_path, portable, session, whole, close=NEAR * float(whole(range(40)).std()))
    state, texts = session.start(3, 8), list[list[int]]([[], [], []])
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1)):
        state = follow(tiny, state, texts, drawn(draw, counts))
    session.close()


def widened(model: Any) -> Any:
    """The same graph with float32 where bfloat16 was, numbers as they are: the CPU has no kernels for bfloat16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == B16:
            tensor.CopyFrom(numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == B16:
            value.type.tensor_type.elem_type = F32
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == B16:
                attribute.i = F32
    return model


@pytest.mark.parametrize("arch", caching())
def test_weights_in_bfloat16_give_nearly_what_they_gave(arch: str, tmp_path: Path) -> None:
    portable = built(tmp_path, arch, "bf16")
    noun = compiled(tmp_path, portable, "bf16")
    model = widened(onnx.load(tmp_path / noun.path))
    onnx.save(model, tmp_path / "bf16" / "wide.onnx")
    wide = graph.load(tmp_path / "bf16" / "wide.onnx")
    noun = graph.describe(wide, "model", "bf16/wide.onnx", {}, portable.states, portable.kind)
    session = on_cpu(tmp_path, noun)
    (row,) = prompts([9])
    (step,) = generate(exact(tmp_path / portable.path), portable, [row], 0)
    logits = session.run({"input_ids": np.array([row]), "counts": np.array([9])})[0]["logits"]
    apart = np.abs(logits[:, 0] - step.logits).max() / step.logits.std()
    assert 0 < apart < 8 * NEAR  # 8 bits and not 11
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", RECIPES)
@pytest.mark.parametrize("arch", caching())
def test_a_gpu_has_a_kernel_for_every_node(arch: str, precision: str, tmp_path: Path) -> None:
    noun = compiled(tmp_path, built(tmp_path, arch, precision), precision)
    onnx.checker.check_model(str(tmp_path / noun.path))
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / noun.path), strict_mode=True, data_prop=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    for node in model.graph.node:
        wanted = [kinds[name] for name in node.input if kinds[name] in FLOATS] or [kinds[node.input[0]]]
        assert set(wanted) <= KERNELS[node.op_type], node.name
        assert len(set(wanted)) == 1, f"{node.name} reads {set(wanted)}"
    facts = onnx_file.check(tmp_path, noun.path, (f"{precision}/weights.bin",))
    assert facts.ops["com.microsoft", "GroupQueryAttention"] == 2
    if precision in ("int8", "int4"):
        assert facts.ops["com.microsoft", "MatMulNBits"] > 8
        assert ("", "DequantizeLinear") not in facts.ops
        assert ("ai.onnx", "DequantizeLinear") not in facts.ops


@pytest.mark.parametrize("precision", HALVES)
def test_what_is_in_16_bits_and_what_in_32(precision: str, tmp_path: Path) -> None:
    noun = compiled(tmp_path, write(tmp_path, SHAPES["everything"]), precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / noun.path))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half, seen = HALVES[precision], set()
    for node in model.graph.node:
        reads = {kinds.get(name) for name in node.input} & {F32, half}
        seen.add(node.op_type)
        if node.op_type in ("MatMul", "GroupQueryAttention"):
            assert reads == {half}
        elif node.op_type == "RMSNormalization":
            alone = node.name.endswith(("q_norm", "k_norm", "layers.0.norm"))  # what they read is no sum
            assert reads == ({half} if alone else {F32}), node.name
        elif node.op_type == "Add":
            assert reads == ({half} if any("bias" in name for name in node.input) else {F32}), node.name
    assert {"MatMul", "GroupQueryAttention", "RMSNormalization", "Add", "GatherND"} <= seen
    ports = {port.name: port.dtype for port in (*noun.inputs, *noun.outputs)}
    assert ports["logits"] == "float32"
    name = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert {ports[state.into] for state in noun.states} | {ports[state.out] for state in noun.states} == {name}


def test_what_follows_the_last_product_stays_in_32_bits(tmp_path: Path) -> None:
    """Granite divides its logits, and rounding once is enough."""
    noun = compiled(tmp_path, built(tmp_path, "granite", "fp16"), "fp16")
    model = onnx.load(tmp_path / noun.path)
    head = next(node for node in model.graph.node if node.name == "lm_head")
    cast = next(node for node in model.graph.node if head.output[0] in node.input)
    divide = next(node for node in model.graph.node if cast.output[0] in node.input)
    assert (cast.op_type, cast.attribute[0].i, divide.op_type, divide.output[0]) == ("Cast", F32, "Div", "logits")


def spoiled(folder: Path, shape: Shape, change: Callable[[str, Any], Any]) -> Any:
    """The portable graph with other weights."""
    portable = write(folder, shape)
    model = onnx.load(folder / portable.path)
    for tensor in model.graph.initializer:
        array = change(tensor.name, numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, folder / portable.path)
    return portable


def test_a_weight_beyond_float16_is_refused_and_not_infinite(tmp_path: Path) -> None:
    def change(name: str, array: Any) -> Any:
        if name == "layers.1.up.weight":
            array[3, 5] = -70_000
        return array

    portable = spoiled(tmp_path, Shape(), change)
    with pytest.raises(UnsupportedError, match=r"fp16 cannot hold 'layers\.1\.up\.weight': it has a 70000") as caught:
        compiled(tmp_path, portable, "fp16")
    assert "bf16" in caught.value.hint
    compiled(tmp_path, portable, "bf16")


def test_a_weight_beyond_bfloat16_is_refused(tmp_path: Path) -> None:
    portable = spoiled(
        tmp_path, Shape(), lambda name, array: array * 0 + np.float32(3.4e38) if name == "head" else array
    )
    with pytest.raises(UnsupportedError, match="bf16 cannot hold 'head'") as caught:
        compiled(tmp_path, portable, "bf16")
    assert caught.value.hint == "export it for another target"


def test_sums_along_the_layers_may_pass_the_end_of_float16(tmp_path: Path) -> None:
    def change(name: str, array: Any) -> Any:
        return np.sign(array) * np.float32(50_000) if name in ("embed.weight", "wpe") else array

    shape = Shape(rotary=0)
    portable = spoiled(tmp_path, shape, change)
    session = on_cpu(tmp_path, compiled(tmp_path, portable, "fp16"))
    whole = reference(tmp_path / portable.path, shape)
    text: Sequence[int] = list(range(3, 20))
    logits = session.run({"input_ids": np.array([text]), "counts": np.array([len(text)])})[0]["logits"][0, 0]
    wanted = whole(text)[-1]
    assert np.abs(logits - wanted).max() < NEAR * wanted.std()
    session.close()


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.INT8])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("block", [16, 32, 256, 8, 24])
def test_blocks_are_laid_out_for_the_kernel(kind: int, turned: bool, block: int, tmp_path: Path) -> None:
    import onnxruntime as ort

    from edgekit.targets._cuda.nbits import block_products  # type: ignore[import-not-found]

    inputs, outputs, largest = 768, 48, 8 if kind == TensorProto.INT4 else 128
    draw = np.random.default_rng(3)
    whole = draw.integers(-largest, largest, (inputs, outputs))
    scale = draw.uniform(-0.02, 0.02, (inputs // block, outputs)).astype(np.float32)
    weight = whole * np.repeat(scale, block, axis=0)
    table = helper.make_tensor(
        "table", kind, whole.T.shape if turned else whole.shape, (whole.T if turned else whole).ravel()
    )
    nodes = [helper.make_node("DequantizeLinear", ["table", "scale"], ["w"], axis=int(turned), block_size=block)]
    nodes += [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])] if turned else []
    made = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "t" if turned else "w"], ["y"], "product")],
        "head",
        [helper.make_tensor_value_info("x", F32, ["n", inputs])],
        [helper.make_tensor_value_info("y", F32, ["n", outputs])],
        [table, numpy_helper.from_array(np.ascontiguousarray(scale.T if turned else scale), "scale")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), tmp_path / "in.onnx")
    model = graph.load(tmp_path / "in.onnx")
    block_products(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds == (["MatMulNBits"] if block in (16, 32, 256) else [node.op_type for node in nodes] + ["MatMul"])
    x = draw.normal(size=(3, inputs)).astype(np.float32)
    found = ort.InferenceSession(graph.to_bytes(model)).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x @ weight, atol=0.03 * float((x @ weight).std()))


def test_two_products_of_one_table_share_its_blocks(tmp_path: Path) -> None:
    portable = write(tmp_path, Shape(weights="int4", tied=True))
    model = graph.load(tmp_path / portable.path)
    import onnx_ir as ir

    head = next(node for node in model.graph if node.name == "lm_head")
    again = ir.node("MatMul", [head.inputs[0], head.inputs[1]], name="again")
    model.graph.append(again)
    again.outputs[0].name = "again"
    again.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.append(again.outputs[0])
    CUDA.compile(model, RECIPES["int4"], kind="decoder")
    first, second = (node for node in model.graph if node.name in ("lm_head", "again"))
    assert first.op_type == second.op_type == "MatMulNBits"
    assert first.inputs[1] is second.inputs[1]


def test_float32_is_refused_with_what_there_is(tmp_path: Path) -> None:
    portable = write(tmp_path, Shape())
    with pytest.raises(UnsupportedError, match="does not compute language models in fp32") as caught:
        CUDA.compile(graph.load(tmp_path / portable.path), Recipe(), kind="decoder")
    assert "bf16, fp16, int8, int4" in caught.value.hint


def test_an_encoder_stays_as_it_is(tmp_path: Path) -> None:
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", F32, ["batch", 4])],
        [helper.make_tensor_value_info("y", F32, ["batch", 4])],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "s.onnx")
    model = graph.load(tmp_path / "s.onnx")
    before = graph.to_bytes(model)
    assert graph.to_bytes(CUDA.compile(model, Recipe(), kind="plain")) == before


def test_a_cast_to_whole_numbers_stays(tmp_path: Path) -> None:
    """Also of a value in float32, and what is made of it is no float."""
    import onnx_ir as ir

    model = graph.load(tmp_path / write(tmp_path, Shape()).path)
    head = next(node for node in model.graph if node.name == "lm_head")
    cast = ir.node("Cast", [head.inputs[0]], {"to": ir.DataType.INT64}, name="whole")
    model.graph.append(cast)
    value = cast.outputs[0]
    value.name, value.type = "whole", ir.TensorType(ir.DataType.INT64)
    model.graph.outputs.append(value)
    CUDA.compile(model, RECIPES["fp16"], kind="decoder")
    assert cast.attributes["to"].as_int() == ir.DataType.INT64
    assert [output.dtype for output in model.graph.outputs if output.name == "whole"] == [ir.DataType.INT64]
