"""The forecast of memory: by hand on a graph of known sizes, and against what processes of real engines take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import in_process
import numpy as np
import pytest
from small_bundles import make

import edgekit
from edgekit import registry
from edgekit.bundle import manifest
from edgekit.cli.main import main
from edgekit.core import Bundle, Graph, Port, Recipe, State, Variant
from edgekit.errors import InputError, ResourceError, UnsupportedError, UsageError
from edgekit.forecast import bounded, fit, forecast, states
from edgekit.runtimes.sampling import Choice

CACHES = Graph(
    "model",
    "model.onnx",
    (
        Port("input_ids", "int64", ("batch", "sequence")),
        Port("past.key", "float32", ("batch", 2, "capacity", 8)),
        Port("past.scale", "float16", (1, 4)),
        Port("h", "float32", ("batch", 16)),
    ),
    (Port("logits", "float32", ("batch", "outputs", 50)),),
    (State("past.key", "present.key", 2), State("h", "h_next"), State("past.scale", "scale")),
    kind="decoder",
)


def test_states_by_formula() -> None:
    cache, fixed = 3 * 2 * 100 * 8 * 4, 3 * 16 * 4 + 4 * 2
    assert states(CACHES, 3, 100) == cache + 2 * fixed
    assert states(CACHES, 3, 100, state=0.5, fixed=1.0) == cache // 2 + fixed


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_states_are_what_the_session_says(exported: Callable[..., Path], precision: str, target: str) -> None:
    folder = exported("zoo:speaker")
    with edgekit.load(folder, target=target, precision=precision) as opened:
        told = forecast(opened.bundle, opened.variant, batch=2, tokens=30)
        *_, last = registry.find("loops", "decode").decode(opened.session_of(), [Told(20, 10), Told(20, 10)])
        kept = places = 2 * 29  # the last token is not read
        if (
            type(opened.session_of()).__name__ == "PagedSession"
        ):  # room for whole blocks and one more, which is not written to
            places = (2 + 1) * 32
        assert told.states * places == opened.session_of().nbytes(last.state) * kept


class Told:
    """A row of so many tokens, and so many more."""

    def __init__(self, prompt: int, most: int) -> None:
        self.ids, self.most = [3] * prompt, most

    def choose(self, logits: object) -> object:
        return Choice(3)

    def ends(self, choice: object) -> bool:
        self.most -= 1
        return self.most == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "tokens", "batch"), [("zoo:parity", 8, 2), ("zoo:speaker", 48, 1), ("zoo:digits", 1, 2)]
)
def test_a_forecast_is_the_sum_of_its_parts(exported: Callable[..., Path], model: str, tokens: int, batch: int) -> None:
    """How far it is from what processes take is measured by tests/benchmarks/forecast_fit.py."""
    bundle = manifest.read(exported(model))
    assert {variant.target for variant in bundle.variants} == {*in_process.usual(model)["targets"]}
    for variant in bundle.variants:
        told = forecast(bundle, variant, batch=batch, tokens=tokens, threads=2)
        parts = (told.base, told.libraries, told.weights, told.states, told.arena, told.spike, told.margin)
        assert told.total == sum(parts)
        assert min(told.base, told.libraries, told.weights, told.arena) > 0
        assert (told.states > 0) == (variant.graphs[0].kind == "decoder")


def small(folder: Path) -> Bundle:
    return manifest.read(make(folder / "small.ek", "token-classification"))


def test_more_of_anything_takes_more(tmp_path: Path) -> None:
    bundle = small(tmp_path)
    (variant,) = bundle.variants
    least = forecast(bundle, variant, batch=1, tokens=1).total
    assert forecast(bundle, variant, batch=1, tokens=4000).total > least
    assert forecast(bundle, variant, batch=1, tokens=1, threads=64).total > least
    (bundle.folder / "tokenizer.json").write_bytes(b" " * 1_000_000)
    assert forecast(bundle, variant, batch=1, tokens=1).total > least + 1_000_000


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_caches_by_hand(tmp_path: Path, dtype: str) -> None:
    """A decoder that is told of a mask copies its caches in every step; those in 8 bits are filled from floats."""
    bundle = small(tmp_path)
    (variant,) = bundle.variants
    cache = Port("past.key", dtype, ("batch", 2, "capacity", 8))
    wanted = Port("logit_positions", "int64", ("batch", "outputs"))
    growing = (State("past.key", "present.key", 2),)
    found = {}
    for tokens in (1001, 2001):
        for extra in ((), (Port("attention_mask", "int64", ("batch", "total")),)):
            graph = replace(
                variant.graphs[0],
                inputs=(cache, wanted, *extra),
                outputs=CACHES.outputs,
                states=growing,
                kind="decoder",
            )
            found[tokens, bool(extra)] = forecast(bundle, replace(variant, graphs=(graph,)), batch=3, tokens=tokens)
    row = 1000 * 2 * 8 * (1 if dtype == "int8" else 4)
    assert found[1001, True].states == found[1001, False].states == 3 * row
    floats = 4 * row if dtype == "int8" else 0
    assert found[2001, False].arena - found[1001, False].arena == floats
    assert found[2001, True].arena - found[1001, True].arena == floats + 3 * row


def convolution(folder: Path, *, small_weights: bool) -> Variant:
    """A graph that reads images of one size: a Conv of 1024 weights, and a matrix of 512, both of floats or of int8."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper

    tensors, nodes = [], []
    array = np.int8 if small_weights else np.float32
    for name, dims in (("kernel", (16, 16, 2, 2)), ("matrix", (16, 32))):
        tensors.append(onnx.numpy_helper.from_array(np.ones(dims, array), name))
        if small_weights:
            tensors.append(onnx.numpy_helper.from_array(np.ones((), np.float32), f"{name}.scale"))
            nodes.append(helper.make_node("DequantizeLinear", [name, f"{name}.scale"], [f"{name}.float"]))
    read = "{}.float" if small_weights else "{}"
    nodes += [
        helper.make_node("Conv", ["pixels", read.format("kernel")], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", read.format("matrix")], ["logits"]),
    ]
    ports = [helper.make_tensor_value_info(*port) for port in (("pixels", T.FLOAT, ["batch", 16, 9, 9]),)]
    outputs = [helper.make_tensor_value_info("logits", T.FLOAT, ["batch", 32])]
    between = [helper.make_tensor_value_info("map", T.FLOAT, ["batch", 16, 8, 8])]
    graph = helper.make_graph(nodes, "g", ports, outputs, tensors, value_info=between)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "conv.onnx", save_as_external_data=True, location="conv.bin", size_threshold=64)
    described = Graph(
        "model",
        "conv.onnx",
        (Port("pixels", "float32", ("batch", 16, 9, 9)),),
        (Port("logits", "float32", ("batch", 32)),),
    )
    return Variant("cpu", Recipe(), (described,))


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("small_weights", [False, True])
def test_images_by_hand(tmp_path: Path, target: str, small_weights: bool) -> None:
    """A convolution's weights are reordered as floats; rows, not tokens, make activations."""
    bundle = small(tmp_path)
    variant = replace(convolution(bundle.folder, small_weights=small_weights), target=target)
    held = registry.find("targets", target).footprint(variant.graphs[0], variant.recipe, {})
    found = forecast(bundle, variant, batch=1, tokens=1)
    file, kernel, matrix = (1024 + 512) * (1 if small_weights else 4), 1024 * 4, 512 * 4
    unpacked = kernel + held.unpacked * matrix if small_weights else 0
    assert found.weights == round(held.weights * file + held.kernels * kernel + unpacked)
    row = held.row * 16 * 8 * 8 * 4 + 3 * (16 * 9 * 9 + 32) * 4
    assert found.arena == round(row)
    assert forecast(bundle, variant, batch=8, tokens=500).arena == round(8 * row)


def test_what_cannot_be_forecast(tmp_path: Path) -> None:
    bundle = small(tmp_path)
    (variant,) = bundle.variants
    with pytest.raises(UsageError, match="0 rows"):
        forecast(bundle, variant, batch=0, tokens=1)
    with pytest.raises(UnsupportedError, match="no memory forecast for the target cuda"):
        forecast(bundle, replace(variant, target="cuda"), batch=1, tokens=1)


def test_what_fits_is_what_was_asked(tmp_path: Path) -> None:
    bundle = small(tmp_path)
    found = fit(bundle, bundle.variants[0], 10**12, batch=4, tokens=32)
    assert (found.batch, found.tokens) == (4, 32)
    assert found.forecast == forecast(bundle, bundle.variants[0], batch=4, tokens=32)


@pytest.mark.slow
def test_what_does_not_fit_names_what_would(exported: Callable[..., Path]) -> None:
    bundle = manifest.read(exported("zoo:speaker"))
    variant = next(one for one in bundle.variants if one.name == "cpu/fp32")
    limit = forecast(bundle, variant, batch=1, tokens=100_000).total
    with pytest.raises(ResourceError) as caught:
        fit(bundle, variant, limit, batch=8, tokens=200_000)
    error = caught.value
    assert error.exit_code == 7
    assert re.search(
        r"needs .* for 8 rows of 200000 tokens and .* are allowed; 1 row of 10\d{4} tokens fits", str(error)
    )
    assert re.match(r"-b 1 -p 5\d{4} -n 5\d{4}, or", error.hint)
    best = error.details["tokens"]
    assert isinstance(best, int)
    assert forecast(bundle, variant, batch=1, tokens=best).total <= limit
    assert forecast(bundle, variant, batch=1, tokens=best + 100).total > limit


def test_as_many_rows_as_fit_of_the_longest(tmp_path: Path) -> None:
    bundle = small(tmp_path)
    (variant,) = bundle.variants
    variant = replace(variant, graphs=(replace(variant.graphs[0], inputs=CACHES.inputs, states=CACHES.states),))
    limit = forecast(bundle, variant, batch=5, tokens=1000).total
    with pytest.raises(ResourceError) as caught:
        fit(bundle, variant, limit, batch=500, tokens=1000)
    assert (caught.value.details["batch"], caught.value.details["tokens"]) == (5, 1000)
    assert "-b 5 -p 1000" in caught.value.hint


def test_what_never_fits_says_how_much_the_least_is(tmp_path: Path) -> None:
    bundle = small(tmp_path)
    with pytest.raises(ResourceError, match=r"one row of 1 token already needs \d+\.\d MB"):
        fit(bundle, bundle.variants[0], 10_000_000, batch=1, tokens=8)
    with pytest.raises(ResourceError, match="already needs"):
        edgekit.load(bundle.folder, memory_limit=10_000_000)


@pytest.mark.slow
def test_a_limit_bounds_the_context(exported: Callable[..., Path]) -> None:
    folder = exported("zoo:speaker")
    bundle = manifest.read(folder)
    variant = next(one for one in bundle.variants if one.name == "cpu/fp32")
    limit = forecast(bundle, variant, batch=1, tokens=20).total
    context = bounded(bundle, variant, limit).settings["context_length"]
    assert 20 <= context < bundle.settings["context_length"]
    with edgekit.load(folder, target="cpu", precision="fp32", memory_limit=limit) as model:
        assert model.generate([3] * 5, max_new_tokens=1).usage["prompt_tokens"] == 5
        with pytest.raises(InputError, match=f"the context holds {context}"):
            model.generate([3] * (context + 1))
        assert model.memory_limit == limit
    assert bounded(bundle, variant, 10**12) == bundle


def test_a_limit_bounds_the_length_of_texts_and_the_command_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = small(tmp_path)
    limit = forecast(bundle, bundle.variants[0], batch=1, tokens=8).total
    settings = bounded(bundle, bundle.variants[0], limit).settings
    assert 8 <= settings["max_length"] <= 64
    assert main(["run", str(bundle.folder), "a text", "--memory-limit", "10MB"]) == 7
    assert "already needs" in capsys.readouterr().err
    assert main(["run", str(bundle.folder), "a text", "--memory-limit", "2G"]) == 0
    del settings["max_length"]
    unbounded = replace(bundle, settings=settings)
    assert bounded(unbounded, bundle.variants[0], limit) is unbounded
