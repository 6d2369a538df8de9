"""Keys and values in 8 bits: scales that fit, and numbers to and fro.

A channel's scale is shared by all tokens and rows: `number = scale * q`, q from -127 to 127. Scales have the shape
(heads, a, n, b), a * n * b being the head's dimensions: channels that differ in `a` or in `b` only are turned into one
another by rotary positions, and have one scale. It goes by the length of the vector that they are together, which no
later position changes. Knows no engine and no cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Bytes = NDArray[np.int8]

LARGEST = 127
# Standard deviations above the mean of a channel's sizes that there is room for. Of normal numbers none is beyond with
# 8, but a model has 50,000 channels and longer tails: with 8 every fourth step of one was to be run again, with 10 one
# in sixty, with 12 hardly any. A step of a scale is then a sixteenth of the numbers' own deviation.
ROOM = 12.0
NORMAL = 1 - 2 / np.pi  # variance of the sizes of normal numbers, as a share of their mean square: of few none is seen
OVER = 1.25  # times the largest that was seen, at least
FEW = 16  # tokens whose own deviation counts as much as their head's, which more numbers tell
GROW = 2.0  # times what turned out to be too large
FLOOR, CEILING = 1e-20, 1e30  # scales of channels that are all zeros, or run away


def lengths(numbers: Floats, shape: tuple[int, ...]) -> Floats:
    """How long the vectors of channels that turn together are: (rows, heads, tokens, dim) to (rows, tokens, heads, n)
    for scales of that shape."""
    rows, heads, tokens, _ = numbers.shape
    apart = numbers.reshape(rows, heads, tokens, *shape[1:])
    if shape[1] == shape[3] == 1:
        found = np.abs(apart[:, :, :, 0, :, 0])
    else:
        found = np.sqrt(np.einsum("rhtanb,rhtanb->rhtn", apart, apart))
    return found.swapaxes(1, 2)


def fitting(seen: Floats, shape: tuple[int, ...]) -> Floats:
    """Scales for channels of which these `lengths` (tokens, heads, n) were seen, with room for what was not."""
    count, mean, square = len(seen), seen.mean(0), np.square(seen).mean(0)
    own = np.maximum(square - np.square(mean), 0)
    usual = (own + NORMAL * square / count).mean(-1, keepdims=True)
    deviation = np.sqrt((count * own + FEW * usual) / (count + FEW))
    return _spread(np.maximum(mean + ROOM * deviation, OVER * seen.max(0)) / LARGEST, shape)


def grown(scales: Floats, seen: Floats) -> Floats:
    """Scales that these `lengths` (tokens, heads, n) fit too: the same array if they do already."""
    needed = _spread(seen.max(0) / LARGEST, scales.shape)
    if (needed <= scales).all():
        return scales
    return np.where(needed > scales, np.minimum(GROW * needed, CEILING), scales)


def doubled(scales: Floats, new: Bytes) -> Floats:
    """Scales twice as large where a new number (heads, tokens, dim) is at the end of what 8 bits hold, else as they
    are: the same array if none is, or none can grow further."""
    full = ((new >= LARGEST) | (new <= -LARGEST - 1)).any(1).reshape(scales.shape)
    full = np.logical_or.reduce(full, axis=(1, 3), keepdims=True)
    larger = np.where(full, np.minimum(2 * scales, np.float32(CEILING)), scales)
    return larger if (larger > scales).any() else scales


def is_full(new: Bytes) -> bool:
    """Whether a number may have been cut off."""
    return bool(new.max() >= LARGEST or new.min() <= -LARGEST - 1)


def quantize(numbers: Floats, scales: Floats, into: Bytes) -> None:
    """(rows, heads, tokens, dim), which the scales fit, as int8."""
    whole = numbers * (1 / _columns(scales))
    into[...] = np.rint(whole, out=whole)


def dequantize(kept: Bytes, scales: Floats, into: Floats) -> None:
    """(rows, heads, tokens, dim) as float32."""
    np.multiply(kept, _columns(scales), out=into)


def rescale(kept: Bytes, old: Floats, new: Floats) -> None:
    """Bring (rows, heads, tokens, dim) from one scale to another, in place."""
    factors = _columns(old) / _columns(new)
    for head in np.flatnonzero((factors != 1).any((1, 2))):
        kept[:, head] = np.rint(kept[:, head] * factors[head])


def _spread(each: Floats, shape: tuple[int, ...]) -> Floats:
    """(heads, n) as scales, within what float32 divides by."""
    within = np.clip(each, FLOOR, CEILING).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(within[:, None, :, None], shape))


def _columns(scales: Floats) -> Floats:
    return scales.reshape(len(scales), 1, -1)
