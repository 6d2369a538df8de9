"""Blocks of int4 and int8: how far a weight may move, and the bytes that ONNX wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from property_tests import examples

from edgekit.quantize import blocks

WEIGHTS = np.random.default_rng(0).normal(0, 0.05, (64, 96)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [2, 16, 32])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_moves_by_half_a_step_or_where_it_is_cut_a_whole_one(bits: int, block: int, axis: int) -> None:
    values, scale = blocks.quantize(WEIGHTS, bits, block, axis)
    assert values.dtype == np.int8
    assert values.shape == WEIGHTS.shape
    assert scale.dtype == np.float32
    assert scale.shape[axis] == WEIGHTS.shape[axis] // block
    assert scale.shape[1 - axis] == WEIGHTS.shape[1 - axis]
    step = np.repeat(np.abs(scale), block, axis=axis)
    moved = np.abs(blocks.dequantize(values, scale, axis) - WEIGHTS) / step
    cut = values == 7 if bits == 4 else np.zeros_like(values, bool)
    assert moved[~cut].max() <= 0.5001
    assert moved.max() <= 1.0001
    assert (values.min(), values.max()) == ((-8, 7) if bits == 4 else (-127, 127))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_of_each_block_is_kept(bits: int) -> None:
    values, scale = blocks.quantize(WEIGHTS, bits, 32, 1)
    found = blocks.dequantize(values, scale, 1).reshape(64, 3, 32)
    wanted = WEIGHTS.reshape(64, 3, 32)
    largest = np.abs(wanted).argmax(axis=2)[..., None]
    kept = np.take_along_axis(found, largest, 2)
    assert kept == pytest.approx(np.take_along_axis(wanted, largest, 2), rel=1e-6)


def test_sixteen_values_lose_a_fifth_less_than_fifteen() -> None:
    wanted = WEIGHTS.reshape(-1, 32, 96)
    step = np.abs(wanted).max(axis=1, keepdims=True) / 7
    fifteen = np.square(np.rint(wanted / step) * step - wanted).mean()
    sixteen = np.square(blocks.dequantize(*blocks.quantize(WEIGHTS, 4, 32, 0), 0) - WEIGHTS).mean()
    assert sixteen < 0.85 * fifteen


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tiny", [0.0, 1e-40])
def test_a_block_of_nothing_stays_nothing(bits: int, tiny: float) -> None:
    weight = np.full((32, 2), tiny, np.float32)
    weight[:, 1] = 0.5
    values, scale = blocks.quantize(weight, bits, 32, 0)
    assert scale[0, 0] == 1
    found = blocks.dequantize(values, scale, 0)
    assert not found[:, 0].any()
    assert found[:, 1] == pytest.approx(0.5, rel=1e-6)


@examples(60)
@given(
    arrays(np.float32, (8, 6), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.sampled_from([4, 8]),
    st.sampled_from([(2, 0), (8, 0), (2, 1), (6, 1)]),
)
def test_any_numbers_come_back_within_a_step(weight: Any, bits: int, shape: tuple[int, int]) -> None:
    block, axis = shape
    values, scale = blocks.quantize(weight, bits, block, axis)
    assert np.isfinite(scale).all()
    assert (scale != 0).all()
    moved = np.abs(blocks.dequantize(values, scale, axis).astype(np.float64) - weight)
    assert (moved <= 1.001 * np.repeat(np.abs(scale), block, axis=axis)).all()


def test_both_axes_are_the_same_turned() -> None:
    for bits in (4, 8):
        values, scale = blocks.quantize(WEIGHTS, bits, 32, 1)
        turned, turned_scale = blocks.quantize(np.ascontiguousarray(WEIGHTS.T), bits, 32, 0)
        assert np.array_equal(values, turned.T)
        assert np.array_equal(scale, turned_scale.T)
        assert values.flags.c_contiguous


def test_packing_is_that_of_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    values = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    tensor = onnx.TensorProto(
        data_type=onnx.TensorProto.INT4, dims=values.shape, raw_data=blocks.pack(values).tobytes()
    )
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)
