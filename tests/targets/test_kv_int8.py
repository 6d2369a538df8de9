"""Caches in 8 bits on the cpu target, by their parts: the scales, the numbers, and the graph that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_onnx import build, constant, save
from tiny_decoder import HEAD, Shape, write

from edgekit import registry
from edgekit.core import Recipe, check_options
from edgekit.errors import BundleError, UnsupportedError
from edgekit.targets._states import kv_int8 as kv
from edgekit.targets._states.kv_int8 import (
    LARGEST,
    dequantize,
    doubled,
    fitting,
    grown,
    is_full,
    lengths,
    quantize,
    rescale,
)
from edgekit.workbench import graph

CPU = registry.find("targets", "cpu")
EIGHT = {"kv_cache": "int8"}
PLAIN, HALVES, NEIGHBOURS = (2, 1, 8, 1), (2, 2, 4, 1), (2, 1, 4, 2)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(5)


def numbers(draw: np.random.Generator, tokens: int, rows: int = 3) -> Any:
    """(rows, 2 heads, tokens, 8), no two channels alike."""
    return (draw.normal(size=(rows, 2, tokens, 8)) * np.geomspace(0.1, 10, 8)).astype(np.float32)


def turned(array: Any, angle: float, shape: tuple[int, ...]) -> Any:
    """Every pair of channels that the shape of scales puts together, turned by an angle."""
    apart = array.reshape(*array.shape[:3], *shape[1:])
    axis = 3 if shape[1] == 2 else 5
    x, y = np.split(apart, 2, axis)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([x * cos - y * sin, x * sin + y * cos], axis).reshape(array.shape).astype(np.float32)


@pytest.mark.parametrize("shape", [PLAIN, HALVES, NEIGHBOURS])
def test_numbers_come_back_within_half_a_step(shape: tuple[int, ...], draw: np.random.Generator) -> None:
    array = numbers(draw, 20)
    scales = fitting(lengths(array, shape).reshape(-1, *lengths(array, shape).shape[2:]), shape)
    kept, back = np.empty(array.shape, np.int8), np.empty_like(array)
    quantize(array, scales, kept)
    dequantize(kept, scales, back)
    assert scales.shape == shape
    assert np.abs(kept).max() < LARGEST
    assert (np.abs(back - array) <= 0.501 * scales.reshape(2, 1, 8)).all()


@pytest.mark.parametrize("shape", [HALVES, NEIGHBOURS])
def test_a_rotation_never_leaves_the_scales(shape: tuple[int, ...], draw: np.random.Generator) -> None:
    array = numbers(draw, 50, rows=1)
    seen = lengths(array, shape)[0]
    tight = grown(np.full(shape, kv.FLOOR, np.float32), seen) / np.float32(kv.GROW)
    assert np.abs(array / tight.reshape(2, 1, 8)).max() <= LARGEST * 1.0001
    for angle in np.linspace(0, 2 * np.pi, 37):
        assert np.abs(turned(array, float(angle), shape) / tight.reshape(2, 1, 8)).max() <= LARGEST * 1.0001


@pytest.mark.parametrize("count", [1, 4, 64, 500])
def test_scales_of_few_tokens_fit_thousands_to_come(count: int, draw: np.random.Generator) -> None:
    """Of ten thousand tokens of normal numbers hardly any is beyond, and what fits does not waste the 8 bits."""
    alike = draw.normal(size=(1, 2, count + 10_000, 8)).astype(np.float32)
    scales = fitting(lengths(alike[:, :, :count], PLAIN)[0], PLAIN)
    to_come = np.abs(alike[:, :, count:]) / scales.reshape(2, 1, 8)
    assert (to_come > LARGEST).mean() < 1e-4
    assert scales.max() < 18 / 127
    assert scales.max() > 3 / 127 or count == 1


def test_a_large_constant_takes_little_room_for_what_it_varies(draw: np.random.Generator) -> None:
    seen = np.abs(20 + draw.normal(size=(100, 1, 8)) * 0.5).astype(np.float32)
    assert fitting(seen, (1, 1, 8, 1)).max() * LARGEST < 20 * 2.5


def test_what_fits_changes_nothing_and_what_does_not_grows_its_channel_alone() -> None:
    scales = np.full(PLAIN, 0.1, np.float32)
    seen = np.full((3, 2, 8), 12.0, np.float32)
    assert grown(scales, seen) is scales
    seen[1, 1, 4] = 127.0
    larger = grown(scales, seen)
    assert larger[1, 0, 4, 0] == pytest.approx(kv.GROW)
    larger[1, 0, 4, 0] = 0.1
    np.testing.assert_array_equal(larger, scales)


@pytest.mark.parametrize("end", [127, -128])
def test_a_number_at_the_end_doubles_its_channel_and_what_turns_with_it(end: int) -> None:
    scales, new = np.full(HALVES, 0.1, np.float32), np.full((2, 3, 8), 126, np.int8)
    new[0, 0, 0] = -127
    assert not is_full(new)
    assert doubled(scales, new) is scales
    new[1, 2, 5] = end
    assert is_full(new)
    larger = doubled(scales, new)
    assert np.argwhere(larger != scales).tolist() == [[1, 0, 1, 0], [1, 1, 1, 0]]
    assert larger[1, 0, 1, 0] == pytest.approx(0.2)


def test_scales_end_somewhere() -> None:
    """What no scale fits is no reason to go on for ever."""
    scales, new = np.full(PLAIN, kv.CEILING / 2, np.float32), np.full((2, 1, 8), 127, np.int8)
    last = doubled(scales, new)
    assert doubled(last, new) is last


def test_zeros_have_a_scale() -> None:
    scales = fitting(np.zeros((4, 2, 8), np.float32), PLAIN)
    kept = np.ones((1, 2, 4, 8), np.int8)
    quantize(np.zeros((1, 2, 4, 8), np.float32), scales, kept)
    assert not kept.any()
    assert (scales > 0).all()


def test_rescaling_moves_what_is_kept_by_a_step_at_most(draw: np.random.Generator) -> None:
    array, kept = numbers(draw, 9), np.empty((3, 2, 9, 8), np.int8)
    old = fitting(lengths(array, PLAIN)[0], PLAIN) * np.float32(3)
    quantize(array, old, kept)
    new = old.copy()
    new[1, :, 3:] *= np.float32(1.7)
    before = kept.copy()
    rescale(kept, old, new)
    np.testing.assert_array_equal(kept[:, 0], before[:, 0])
    back = np.empty_like(array)
    dequantize(kept, new, back)
    assert (np.abs(back - array) <= 0.501 * (old + new).reshape(2, 1, 8)).all()
    assert (kept[:, 1] != before[:, 1]).any()


# The graph


def compiled(folder: Path, shape: Shape, options: dict[str, str]) -> Any:
    return CPU.compile(graph.load(folder / write(folder, shape).path), Recipe(), options, kind="decoder")


@pytest.mark.parametrize(
    ("change", "turns"),
    [
        ({}, (2, HEAD // 2, 1)),
        ({"interleaved": True}, (1, HEAD // 2, 2)),
        ({"rotary": 16}, (4, HEAD // 4, 1)),  # half of them turn; the others are taken together alike
        ({"rotary": 8}, (1, HEAD, 1)),  # turned before
        ({"rotary": 0}, (1, HEAD, 1)),
    ],
)
def test_scales_are_inputs_whose_shape_says_what_turns(change: Any, turns: tuple[int, ...], tmp_path: Path) -> None:
    model = compiled(tmp_path, Shape(weights="int4", **change), EIGHT)
    ports = {port.name: port for port in graph.describe(model, "model", "model.onnx", {}).inputs}
    heads, kv_heads = Shape().heads, Shape().kv_heads
    for layer in (0, 1):
        assert ports[f"past_key_values.{layer}.factors"].shape == (heads + 2 * kv_heads, *turns)
        assert ports[f"past_key_values.{layer}.spread"].shape == (heads * HEAD,)
        assert ports[f"past_key_values.{layer}.key"].dtype == "int8"


def test_prompts_are_read_in_the_same_form_as_without(tmp_path: Path) -> None:
    forms = [compiled(tmp_path, Shape(weights="int4"), options) for options in (EIGHT, {}, {"kv_cache": "float32"})]
    eight, without, same = (graph.to_bytes(CPU.prompt(form)) for form in forms)
    assert eight == without == same


def test_weights_that_are_not_in_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="weights in blocks"):
        compiled(tmp_path, Shape(), EIGHT)


def test_a_model_without_caches_is_refused(tmp_path: Path) -> None:
    save(tmp_path, build(nodes=(constant(1.0),)))
    with pytest.raises(UnsupportedError, match="not all GroupQueryAttention"):
        CPU.compile(graph.load(tmp_path / "m.onnx"), Recipe(), EIGHT, kind="decoder")


@pytest.mark.parametrize("state", ["present.1.other", "present_conv.1", "present_ssm.0"])
def test_a_decoder_with_other_states_is_refused(state: str, tmp_path: Path) -> None:
    import onnx_ir as ir

    model = graph.load(tmp_path / write(tmp_path, Shape(weights="int4")).path)
    other = ir.node("Identity", [model.graph.inputs[0]])
    other.outputs[0].name = state
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    with pytest.raises(UnsupportedError, match="not all GroupQueryAttention"):
        CPU.compile(model, Recipe(), EIGHT, kind="decoder")


def test_other_widths_are_refused() -> None:
    with pytest.raises(BundleError, match="kv_cache is 'int4'"):
        check_options({"kv_cache": "int4"}, CPU.OPTIONS, "cpu")
