"""Quantize weights to int4 or int8: symmetric, round to nearest, one scale per block of inputs or per output.

For weights that are quantized while they stream by: plain arrays in, plain arrays out, no graph. What comes out goes
behind a DequantizeLinear: w is about q * s. In int4 the weight with the largest magnitude in a block becomes -8, so
that all sixteen values are used, as in llama.cpp's Q4_0; the scale then has the opposite sign of that weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.core import Array, Floats

BITS = {"int4": 4, "int8": 8}


def quantize(weight: Floats, bits: int, block: int, axis: int) -> tuple[Array, Floats]:
    """Values (int8, in the range of `bits`) of the shape of `weight`, and float32 scales.

    `weight` has rank 2; `block` divides the length of `axis`, along which scales are `block` times fewer. A block of
    zeros gets scale 1. Fastest where `weight` fits the processor's cache.
    """
    if axis == 1:  # numpy is slow along short rows
        values, scale = quantize(np.ascontiguousarray(weight.T), bits, block, 0)
        return np.ascontiguousarray(values.T), np.ascontiguousarray(scale.T)
    blocks = weight.reshape(-1, block, weight.shape[1])
    scale = _scale(blocks, bits)
    rounded = blocks / scale[:, None]
    np.rint(rounded, out=rounded)
    if bits == 4:
        np.minimum(rounded, 7, out=rounded)  # of the same magnitude as the largest and the other sign: would be 8
    return rounded.astype(np.int8).reshape(weight.shape), scale


def _scale(blocks: Floats, bits: int) -> Floats:
    high, low = blocks.max(axis=1), blocks.min(axis=1)
    largest = np.where(high > -low, high, low)
    scale = np.asarray(np.abs(largest) / 127 if bits == 8 else largest / -8, np.float32)
    scale[np.abs(scale) < np.finfo(np.float32).tiny] = 1  # also where the numbers are too small to be divided
    return scale


def dequantize(values: Array, scale: Floats, axis: int) -> Floats:
    """What a DequantizeLinear along `axis` makes of them."""
    block = values.shape[axis] // scale.shape[axis]
    return values.astype(np.float32) * np.repeat(scale, block, axis=axis)


def pack(values: Array) -> Array:
    """Two int4 to a byte, the first in the low half, as ONNX packs them; the last axis must be even."""
    nibbles = values.view(np.uint8)
    low, high = nibbles[..., 0::2], nibbles[..., 1::2]
    return np.asarray((low & 15) | (high << 4), np.uint8)
