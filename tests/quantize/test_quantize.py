from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import registry
from edgekit.core import Graph, Recipe
from edgekit.errors import UnsupportedError
from edgekit.quantize import recipes, smooth
from edgekit.quantize.int8 import rounded
from edgekit.quantize.parallel import at_once
from edgekit.workbench import graph, variants

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((50, 64), np.float32)
WEIGHT = RNG.standard_normal((64, 48), np.float32)
BIAS = RNG.standard_normal(48, np.float32)


def make(path: Path, *, tied: bool = False) -> Path:
    """ids -> embedding -> MatMul -> Add; `tied`: two MatMuls read one weight and one tensor."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
        helper.make_node("MatMul", ["rows", "weight"], ["product"], name="dense"),
        helper.make_node("Add", ["product", "bias"], ["first"], name="shift"),
    ]
    if tied:
        nodes.append(helper.make_node("MatMul", ["rows", "weight"], ["second"], name="dense2"))
        nodes.append(helper.make_node("Add", ["first", "second"], ["out"], name="join"))
    else:
        nodes.append(helper.make_node("Identity", ["first"], ["out"], name="end"))
    tensors = {"table": TABLE, "weight": WEIGHT, "bias": BIAS}
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "sequence", 48])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def run(folder: Path, target: str, path: str, recipe: Recipe, ids: Any) -> Any:
    noun = graph.describe(graph.load(folder / path), "small", path, {})
    session = registry.find("targets", target).open(folder, noun, recipe, threads=1)
    try:
        return session.run({"ids": ids})[0]["out"]
    finally:
        session.close()


INT8 = recipes.recipe("int8")
IDS = RNG.integers(0, 50, (3, 7))


def test_rounding_is_symmetric_and_within_half_a_step() -> None:
    values, scale = rounded(WEIGHT, axis=1)
    assert values.dtype == np.int8
    assert scale.shape == (48,)
    assert np.abs(values).max() <= 127
    assert np.all(np.abs(values * scale - WEIGHT) <= scale / 2 + 1e-6)


def test_a_channel_of_zeros_stays_zero() -> None:
    values, scale = rounded(np.zeros((4, 3), np.float32), axis=1)
    assert not values.any()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("tied", [False, True])
def test_portable_form_is_standard_and_near(tmp_path: Path, tied: bool) -> None:
    model = recipes.apply(graph.load(make(tmp_path / "a.onnx", tied=tied)), INT8)
    assert {node.domain for node in model.graph} <= {"", "ai.onnx"}
    held = {name: value.const_value.dtype.name for name, value in model.graph.initializers.items() if value.const_value}
    assert sum(dtype == "INT8" for dtype in held.values()) == 2  # a tied weight is held once
    graph.pack({"b.onnx": model}, tmp_path)
    before = run(tmp_path, "cpu", "a.onnx", Recipe(), IDS)
    after = run(tmp_path, "cpu", "b.onnx", Recipe(), IDS)
    assert np.abs(before - after).max() < 0.02 * np.abs(before).max()


@pytest.mark.parametrize("tied", [False, True])
def test_cpu_form_computes_in_integers(tmp_path: Path, tied: bool) -> None:
    make(tmp_path / "a.onnx", tied=tied)
    model = registry.find("targets", "cpu").compile(
        recipes.apply(graph.load(tmp_path / "a.onnx"), INT8), INT8, kind="plain"
    )
    ops = [node.op_type for node in model.graph]
    assert "MatMul" not in ops
    assert "DequantizeLinear" not in ops
    assert "DynamicQuantizeLinear" not in ops  # one scale for all rows
    assert ops.count("QuantizeLinear") == 1  # one for all that read the same tensor
    assert ops.count("MatMulIntegerToFloat") == (2 if tied else 1)
    graph.pack({"b.onnx": model}, tmp_path)
    before = run(tmp_path, "cpu", "a.onnx", Recipe(), IDS)
    after = run(tmp_path, "cpu", "b.onnx", INT8, IDS)
    assert np.abs(before - after).max() < 0.03 * np.abs(before).max()


def cpu_form(folder: Path) -> None:
    """`make`'s graph as the cpu target computes it in int8, as b.onnx."""
    model = recipes.apply(graph.load(make(folder / "a.onnx")), INT8)
    graph.pack({"b.onnx": registry.find("targets", "cpu").compile(model, INT8, kind="plain")}, folder)


def test_a_row_does_not_depend_on_the_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one that is a thousand times as large, whose scale would round it to nothing."""
    monkeypatch.setitem(globals(), "TABLE", TABLE * np.geomspace(1, 1000, len(TABLE), dtype=np.float32)[:, None])
    cpu_form(tmp_path)
    float_out = run(tmp_path, "cpu", "a.onnx", Recipe(), IDS)
    together = run(tmp_path, "cpu", "b.onnx", INT8, IDS)
    backwards = run(tmp_path, "cpu", "b.onnx", INT8, IDS[::-1, ::-1])[::-1, ::-1]
    alone = np.stack([
        np.concatenate([run(tmp_path, "cpu", "b.onnx", INT8, np.array([[one]]))[0] for one in row]) for row in IDS
    ])  # fmt: skip
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(backwards, alone, rtol=1e-6)
    lost = np.abs(together - float_out).max(axis=-1) / np.abs(float_out).max(axis=-1)
    assert lost.max() < 0.03


def test_a_row_of_zeros_has_a_product_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TABLE", np.where(np.arange(len(TABLE))[:, None] == 7, np.float32(0), TABLE))
    cpu_form(tmp_path)
    out = run(tmp_path, "cpu", "b.onnx", INT8, np.array([[3, 7], [7, 7]]))
    np.testing.assert_array_equal(out[[0, 1, 1], [1, 0, 1]], np.stack([BIAS] * 3))
    assert np.isfinite(out).all()


def test_openvino_reads_the_portable_form(tmp_path: Path) -> None:
    model = recipes.apply(graph.load(make(tmp_path / "a.onnx")), INT8)
    graph.pack({"b.onnx": model}, tmp_path)
    before = run(tmp_path, "openvino", "a.onnx", Recipe(), IDS)
    after = run(tmp_path, "openvino", "b.onnx", INT8, IDS)
    assert np.abs(before - after).max() < 0.03 * np.abs(before).max()


def test_a_weight_that_is_skipped_stays_float(tmp_path: Path) -> None:
    recipe = Recipe(weights="int8", activations="int8", method="dynamic", skip=("weight",))
    model = recipes.apply(graph.load(make(tmp_path / "a.onnx")), recipe)
    assert "weight" in model.graph.initializers
    assert recipe.name == "int8-dynamic-mixed"


FILTER = RNG.standard_normal((16, 3, 5, 5), np.float32)
DEPTHWISE = RNG.standard_normal((16, 1, 3, 3), np.float32)  # below SMALLEST
TURNED = RNG.standard_normal((80, 16), np.float32)  # (outputs, inputs)
STRAIGHT = RNG.standard_normal((80, 20), np.float32)


def at_steps(weight: Any, axis: int) -> Any:
    """The weight that int8 leaves of this one."""
    values, scale = rounded(weight, axis)
    return (values * np.expand_dims(scale, [other for other in range(weight.ndim) if other != axis])).astype(np.float32)


def make_convolutions(path: Path, *, steps: bool = False) -> Path:
    """x -> Conv -> Conv by channel -> mean -> Gemm of a transposed weight -> Gemm of one as it is.

    `steps`: in floating point, with the weights that int8 leaves.
    """
    nodes = [
        helper.make_node("Conv", ["x", "filter"], ["map"], name="conv"),
        helper.make_node("Conv", ["map", "depthwise"], ["map2"], name="conv2", group=16),
        helper.make_node("ReduceMean", ["map2", "sides"], ["mean"], name="pool", keepdims=0),
        helper.make_node("Gemm", ["mean", "turned"], ["hidden"], name="dense", transB=1),
        helper.make_node("Gemm", ["hidden", "straight"], ["out"], name="head"),
    ]
    weights = {"filter": FILTER, "turned": TURNED, "straight": STRAIGHT}
    if steps:
        weights = {name: at_steps(weight, int(name == "straight")) for name, weight in weights.items()}
    tensors = {**weights, "depthwise": DEPTHWISE, "sides": np.array([2, 3])}
    made = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 9, 11])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 20])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_convolutions_and_gemms_have_a_scale_for_each_output(tmp_path: Path) -> None:
    model = recipes.apply(graph.load(make_convolutions(tmp_path / "a.onnx")), INT8)
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert {name for name, array in arrays.items() if array.dtype == np.int8} == {
        "filter.int8.0",
        "turned.int8.0",
        "straight.int8.1",
    }
    assert arrays["filter.int8.0.scale"].shape == (16,)
    assert arrays["turned.int8.0.scale"].shape == (80,)
    assert arrays["straight.int8.1.scale"].shape == (20,)
    assert "depthwise" in arrays


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_convolutions_and_gemms_run_on_every_engine(tmp_path: Path, target: str) -> None:
    """On ONNX Runtime activations stay float32, so it gives exactly what the rounded weights give."""
    recipe, module = INT8, registry.find("targets", target)
    model = module.compile(
        recipes.apply(graph.load(make_convolutions(tmp_path / "a.onnx")), recipe), recipe, kind="plain"
    )
    graph.pack({"b.onnx": model}, tmp_path)
    x = RNG.standard_normal((3, 3, 9, 11), np.float32)

    def out(path: str, recipe: Recipe) -> Any:
        session = module.open(tmp_path, graph.describe(graph.load(tmp_path / path), "a", path, {}), recipe, threads=1)
        try:
            return session.run({"x": x})[0]["out"]
        finally:
            session.close()

    before, after = out("a.onnx", Recipe()), out("b.onnx", recipe)
    assert np.abs(before - after).max() < 0.03 * np.abs(before).max()
    if target == "cpu":
        make_convolutions(tmp_path / "c.onnx", steps=True)
        assert np.abs(out("c.onnx", Recipe()) - after).max() < 1e-5 * np.abs(after).max()


def test_floating_point_recipes_change_nothing(tmp_path: Path) -> None:
    model = graph.load(make(tmp_path / "a.onnx"))
    before = graph.fingerprint(model)
    assert graph.fingerprint(recipes.apply(model, recipes.recipe("fp32"))) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, "no precision 'int3'"),
        ({"precision": "int4"}, "int4 is not supported"),
        ({"precision": "fp32", "method": "dynamic"}, "fp32 quantizes nothing"),
        ({"precision": "int8", "method": "awq"}, "int8 by 'awq'"),
        ({"precision": "int8", "group_size": 32}, "one scale per output channel"),
    ],
)
def test_recipes_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        recipes.recipe(**options)


def test_pack_holds_each_tensor_once_on_a_page_and_repeats_itself(tmp_path: Path) -> None:
    make(tmp_path / "a.onnx")
    models = {"x.onnx": graph.load(tmp_path / "a.onnx"), "y.onnx": graph.load(tmp_path / "a.onnx")}
    graph.pack(models, tmp_path)
    size = (tmp_path / graph.WEIGHTS).stat().st_size
    assert size < TABLE.nbytes + WEIGHT.nbytes + 2 * graph.PAGE
    for model in models.values():
        external = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
        assert all(t.offset % graph.PAGE == 0 for t in external if hasattr(t, "offset"))
    first = (tmp_path / "x.onnx").read_bytes(), (tmp_path / graph.WEIGHTS).read_bytes()
    assert first[0] == (tmp_path / "y.onnx").read_bytes()
    other = tmp_path / "again"
    other.mkdir()
    graph.pack({"x.onnx": graph.load(tmp_path / "a.onnx")}, other)
    assert first == ((other / "x.onnx").read_bytes(), (other / graph.WEIGHTS).read_bytes())


def test_work_on_parts_is_all_done_and_the_first_that_fails_is_told() -> None:
    done = np.zeros(50)

    def work(part: int) -> None:
        done[part] += 1
        if part in (20, 30):
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 20"):
        at_once(work, range(50))
    assert (done == 1).all()


def test_what_lies_in_files_is_packed_as_what_does_not(tmp_path: Path) -> None:
    """Also where two files hold the same, and where one file is read for two models."""
    make(tmp_path / "a.onnx")
    folders = [tmp_path / name for name in ("one", "two", "all")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:
        graph.pack({"x.onnx": graph.load(tmp_path / "a.onnx")}, folder)
    graph.pack({f"{n}.onnx": graph.load(folders[n // 2] / "x.onnx") for n in range(3)}, folders[2])
    for n in range(3):
        assert (folders[2] / f"{n}.onnx").read_bytes() == (folders[0] / "x.onnx").read_bytes()
    assert (folders[2] / graph.WEIGHTS).read_bytes() == (folders[0] / graph.WEIGHTS).read_bytes()


def test_ports_name_their_free_axes(tmp_path: Path) -> None:
    noun = graph.describe(graph.load(make(tmp_path / "a.onnx")), "small", "a.onnx", {"batch": (1, 4)})
    assert isinstance(noun, Graph)
    assert noun.inputs[0].shape == ("batch", "sequence")
    assert noun.inputs[0].dtype == "int64"
    assert noun.outputs[0].shape == ("batch", "sequence", 48)
    assert noun.proven == {"batch": (1, 4)}


def make_normed(path: Path) -> Path:
    """x -> LayerNormalization with two outlier channels -> two MatMuls that read it."""
    gain = np.ones(64, np.float32)
    gain[[3, 40]] = 60
    tensors = {"gain": gain, "offset": np.zeros(64, np.float32), "weight": WEIGHT, "other": WEIGHT[:, ::-1].copy()}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "offset"], ["normed"], name="norm"),
        helper.make_node("MatMul", ["normed", "weight"], ["a"], name="dense"),
        helper.make_node("MatMul", ["normed", "other"], ["b"], name="dense2"),
        helper.make_node("Add", ["a", "b"], ["out"], name="join"),
    ]
    made = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "sequence", 48])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_smoothing_changes_nothing_in_float_and_helps_int8(tmp_path: Path) -> None:
    make_normed(tmp_path / "a.onnx")
    x = np.random.default_rng(1).standard_normal((4, 9, 64), np.float32)
    noun = graph.describe(graph.load(tmp_path / "a.onnx"), "model", "a.onnx", {})

    def feed(graphs: Any, sessions: Any) -> None:
        for part in (x[:2], x[2:]):
            sessions["model"].run({"x": part})

    largest = variants.calibrate(tmp_path, [noun], feed)["model"]
    assert sorted(largest) == ["normed"]
    assert largest["normed"][3] > 10 * np.median(largest["normed"])

    def answers(model: Any, recipe: Recipe) -> Any:
        graph.pack({"b.onnx": model}, tmp_path)
        noun = graph.describe(graph.load(tmp_path / "b.onnx"), "normed", "b.onnx", {})
        session = registry.find("targets", "cpu").open(tmp_path, noun, recipe, threads=1)
        try:
            return session.run({"x": x})[0]["out"]
        finally:
            session.close()

    cpu = registry.find("targets", "cpu")
    wanted = answers(graph.load(tmp_path / "a.onnx"), Recipe())
    smoothed = graph.load(tmp_path / "a.onnx")
    smooth.smooth(smoothed, largest)
    np.testing.assert_allclose(answers(smoothed, Recipe()), wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())
    rough = answers(cpu.compile(recipes.apply(graph.load(tmp_path / "a.onnx"), INT8), INT8, kind="plain"), INT8)
    even = answers(cpu.compile(recipes.apply(graph.load(tmp_path / "a.onnx"), INT8, largest), INT8, kind="plain"), INT8)
    assert np.abs(even - wanted).mean() < 0.5 * np.abs(rough - wanted).mean()


def test_nothing_to_smooth_is_nothing_to_calibrate(tmp_path: Path) -> None:
    noun = graph.describe(graph.load(make(tmp_path / "a.onnx")), "model", "a.onnx", {})
    assert variants.calibrate(tmp_path, [noun], lambda graphs, sessions: pytest.fail("nothing is to be run")) == {}
