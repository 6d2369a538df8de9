"""What OpenVINO is told of a graph that sets nothing: by the recipe, the kind of graph and the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_decoder import drawn, follow, open_both, padded
from tiny_decoder import Shape

from edgekit.core import Graph, Recipe, State
from edgekit.machine import device
from edgekit.targets._openvino.defaults import GROUP, arithmetic, caches, properties
from edgekit.targets._openvino.paged_graph import keeps

CACHES = State("past_key_values.0.key", "present.0.key", axis=2)
CELL = State("cell", "cell.out")  # of a fixed size
AVX2, BF16 = ("FP32", "INT8", "BIN", "EXPORT_IMPORT"), ("FP32", "INT8", "BIN", "BF16", "EXPORT_IMPORT")
PROCESSORS = [pytest.param(AVX2, id="without bf16"), pytest.param(BF16, id="with bf16")]
SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


def graph(kind: str, *states: State) -> Graph:
    return Graph("model", "model.onnx", (), (), states, kind=kind)


def in_groups(size: int | None, weights: str = "int4") -> Recipe:
    return Recipe(weights, "int8", group_size=size, method="rtn")


def told(recipe: Recipe, kind: str, capabilities: tuple[str, ...] = AVX2, *states: State) -> dict[str, Any]:
    return properties(recipe, graph(kind, *states), 2, capabilities)


@pytest.mark.parametrize("capabilities", PROCESSORS)
@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize(("size", "wanted"), [(16, 16), (32, 32), (64, 64), (128, 128), (256, GROUP), (None, GROUP)])
def test_activations_of_a_decoder_are_in_the_groups_of_its_weights(
    size: int | None, wanted: int, weights: str, capabilities: tuple[str, ...]
) -> None:
    assert told(in_groups(size, weights), "decoder", capabilities, CACHES)[SIZE] == wanted


@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_activations_of_other_graphs_are_in_groups_of_their_own(kind: str) -> None:
    assert told(in_groups(32), kind)[SIZE] == GROUP
    assert told(Recipe("int8", "int8", method="dynamic"), kind)[SIZE] == GROUP


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_activations_that_stay_float_have_no_groups(weights: str) -> None:
    assert SIZE not in told(Recipe(weights, weights), "decoder", BF16, CACHES)


@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_only_decoders_have_caches(kind: str) -> None:
    assert "KV_CACHE_PRECISION" not in told(in_groups(32), kind, BF16)


@pytest.mark.parametrize(
    ("weights", "states", "capabilities", "wanted"),
    [
        ("fp32", (CACHES,), BF16, ("f32", "f32")),
        ("int8", (CACHES,), BF16, ("f32", "f16")),
        ("int4", (CACHES,), BF16, ("bf16", "bf16")),
        ("int4", (CACHES,), AVX2, ("bf16", "f16")),
        ("int4", (CACHES, CELL), BF16, ("f32", "f16")),
    ],
)
def test_caches_have_the_bits_that_the_engine_computes_in(
    weights: str, states: tuple[State, ...], capabilities: tuple[str, ...], wanted: tuple[str, str]
) -> None:
    recipe = Recipe() if weights == "fp32" else in_groups(32, weights)
    config = told(recipe, "decoder", capabilities, *states)
    assert (config["INFERENCE_PRECISION_HINT"], config["KV_CACHE_PRECISION"]) == wanted


@pytest.mark.parametrize("capabilities", PROCESSORS)
@pytest.mark.parametrize("recipe", [Recipe(), in_groups(32, "int8"), in_groups(32)], ids=lambda recipe: recipe.name)
def test_caches_can_be_in_blocks_on_every_processor(
    recipe: Recipe, capabilities: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    decoder = graph("decoder", CACHES)
    assert keeps(caches(recipe, decoder, capabilities), arithmetic(recipe, decoder, capabilities))


@pytest.mark.parametrize(("options", "wanted"), [({}, 32), ({SIZE: "64"}, 64), ({SIZE: "0"}, 0)])
def test_what_a_bundle_sets_comes_before_the_default(options: dict[str, str], wanted: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    session = open_both("openvino", tmp_path, Shape(weights="int4"), in_groups(32), **options).session
    assert session._compiled.get_property(SIZE) == wanted
    session.close()


@pytest.mark.parametrize("kind", ["f32", "u8"])
def test_a_bundle_sets_its_caches_before_the_default(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    session = open_both("openvino", tmp_path, Shape(), in_groups(32), KV_CACHE_PRECISION=kind).session
    assert session._compiled.get_property("KV_CACHE_PRECISION").get_type_name() == kind
    session.close()


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_the_default_is_near_the_portable_graph(weights: str, tmp_path: Path) -> None:
    """The bound is of the logits' largest difference, about twice what caches in bf16 make of it."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    tiny = open_both("openvino", tmp_path, Shape(weights=weights), in_groups(32, weights))
    tiny.close = 0.2
    texts = list[list[int]]([[], []])
    state = follow(tiny, tiny.session.start(2, 8), texts, drawn(np.random.default_rng(3), (40, 9)))
    follow(tiny, state, texts, [[3], [4]])
    tiny.session.close()


@pytest.mark.skipif(
    bool(device.cpu_features() & {"avx_vnni", "avx512_vnni"}), reason="this processor quantizes activations"
)
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_without_vnni_groups_of_activations_change_no_bit(weights: str, tmp_path: Path) -> None:
    """Else the default would have to ask for a feature of the processor."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    logits = []
    for size in ("0", "32", str(GROUP)):
        folder = tmp_path / size
        folder.mkdir()
        session = open_both("openvino", folder, Shape(weights=weights), in_groups(32, weights), **{SIZE: size}).session
        logits.append(session.run(padded([list(range(3, 40))]))[0]["logits"].copy())
        session.close()
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])
