"""The steps from an image to the input of a vision model: float32 (3, height, width).

Steps run in the order of the settings, on 8-bit levels until the first `rescale` or `normalize`, then on float32. Those
two and `flip_channels` only depend on a level and its channel, so a table of 3 x 256 values, computed once exactly as
transformers computes a value, holds all of them. Resizing is Pillow's on 8-bit levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError

from ._image_file import PIXELS, pillow
from ._image_sizes import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Floats

    Levels = NDArray[np.uint8]

SHIFT = 11  # bits of a weight in OpenCV's 8-bit bilinear resizing


@dataclass(frozen=True)
class Place:
    """Where the image lies in the pixels: its point (y, x) is at y * scale[0] + offset[0], x * scale[1] + offset[1]."""

    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def resized(self, height: float, width: float) -> Place:
        """After both sides were multiplied by these."""
        (down, right), (top, left) = self.scale, self.offset
        return Place((down * height, right * width), (top * height, left * width))

    def cut(self, top: int, left: int) -> Place:
        """After everything above `top` and left of `left` was cut off; negative: padded."""
        return Place(self.scale, (self.offset[0] - top, self.offset[1] - left))


@dataclass(frozen=True)
class Resize:
    """Resizes with Pillow: `resample` is Pillow's number (0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4, 5)."""

    rule: Size
    resample: int

    def size(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """The size that every image has after the step, if it is one."""
        return self.rule.of(*before) if before else self.rule.fixed

    def run(self, image: Any, place: Place, name: str) -> tuple[Any, Place]:
        height, width = self.rule.of(image.height, image.width)
        if height < 1 or width < 1 or height * width > PIXELS:
            raise InputError(
                f"{name} of {image.width} x {image.height} would be resized to {width} x {height}",
                hint="crop it: one side is much longer than the other",
            )
        scaled = place.resized(height / image.height, width / image.width)
        return image.resize((width, height), self.resample), scaled


@dataclass(frozen=True)
class Letterbox:
    """Fits the image into a frame, its sides' ratio kept, in the middle of `value`: as ultralytics does.

    Bilinear as in OpenCV: neighbours only, so that shrinking does not average as Pillow's does.
    """

    height: int
    width: int
    value: int

    def size(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.height, self.width

    def run(self, image: Any, place: Place, name: str) -> tuple[Any, Place]:
        ratio = min(self.height / image.height, self.width / image.width)
        height, width = max(1, round(image.height * ratio)), max(1, round(image.width * ratio))
        top, left = (round((gap / 2) - 0.1) for gap in (self.height - height, self.width - width))
        frame = np.full((self.height, self.width, 3), self.value, np.uint8)
        frame[top : top + height, left : left + width] = bilinear(np.asarray(image), height, width)
        scaled = place.resized(height / image.height, width / image.width)
        return pillow().fromarray(frame), scaled.cut(-top, -left)


@dataclass(frozen=True)
class Window:
    """Takes a window of the image, which may reach beyond it: there it is `value`. Crops and pads."""

    of: Callable[[int, int], tuple[int, int, int, int]]  # (height, width) -> (top, left, height, width)
    value: float = 0.0
    fixed: tuple[int, int] | None = None  # the window's height and width, if they are always these

    def size(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        return self.fixed or (self.of(*before)[2:] if before else None)

    def run(self, image: Any, place: Place, name: str) -> tuple[Any, Place]:
        """On levels."""
        top, left, height, width = self._checked(image.height, image.width, name)
        if not self.value:
            return image.crop((left, top, left + width, top + height)), place.cut(top, left)
        frame = pillow().new("RGB", (width, height), (round(self.value),) * 3)
        frame.paste(image, (-left, -top))
        return frame, place.cut(top, left)

    def run_values(self, pixels: Floats, place: Place, name: str) -> tuple[Floats, Place]:
        """On float32 (3, h, w)."""
        _, high, wide = pixels.shape
        top, left, height, width = self._checked(high, wide, name)
        inside = pixels[:, max(0, top) : top + height, max(0, left) : left + width]
        if inside.shape[1:] != (height, width):
            frame = np.full((3, height, width), self.value, np.float32)
            down, right = max(0, -top), max(0, -left)
            frame[:, down : down + inside.shape[1], right : right + inside.shape[2]] = inside
            inside = frame
        return inside, place.cut(top, left)

    def _checked(self, high: int, wide: int, name: str) -> tuple[int, int, int, int]:
        window = self.of(high, wide)
        if not 0 < window[2] * window[3] <= PIXELS:
            raise InputError(f"{name} of {wide} x {high} does not fit into the frame", hint="make it smaller first")
        return window


@dataclass(frozen=True, eq=False)
class Steps:
    """All steps of one model, ready to run. Threads may share it."""

    levels: tuple[Resize | Letterbox | Window, ...] = ()
    table: Floats = field(default_factory=lambda: np.tile(np.arange(256, dtype=np.float32), (3, 1)))
    channels: tuple[int, int, int] = (0, 1, 2)  # the RGB channel of each row of the table
    values: tuple[Window, ...] = ()

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all pixels, or None where it depends on the image."""
        size: tuple[int, int] | None = None
        for step in (*self.levels, *self.values):
            size = step.size(size)
        return size

    def run(self, image: Any, name: str) -> tuple[Floats, Place]:
        """The pixels of an upright RGB picture, contiguous; `name` is what errors call it. Raises InputError."""
        place = Place()
        for step in self.levels:
            image, place = step.run(image, place, name)
        levels = np.asarray(image)
        pixels = np.empty((3, *levels.shape[:2]), np.float32)
        for row, channel in enumerate(self.channels):
            np.take(self.table[row], levels[..., channel], out=pixels[row], mode="clip")
        for window in self.values:
            pixels, place = window.run_values(pixels, place, name)
        return np.ascontiguousarray(pixels), place


def center_crop(height: int, width: int) -> Window:
    """The middle; an image that is smaller lies in the middle of zeros, an odd gap's pixel above and left."""

    def window(high: int, wide: int) -> tuple[int, int, int, int]:
        return (high - height) // 2, (wide - width) // 2, height, width

    return Window(window, fixed=(height, width))


def pad(height: int, width: int, value: float) -> Window:
    """Filled up at the bottom and on the right; an image that is larger does not fit."""

    def window(high: int, wide: int) -> tuple[int, int, int, int]:
        return (0, 0, height, width) if high <= height and wide <= width else (0, 0, 0, 0)

    return Window(window, value, (height, width))


def pad_multiple(multiple: int, value: float, centered: bool) -> Window:
    """Filled up to multiples of `multiple`: at the bottom and on the right, or on all sides, half each."""

    def window(high: int, wide: int) -> tuple[int, int, int, int]:
        height, width = (-(-side // multiple) * multiple for side in (high, wide))
        return (-((height - high) // 2), -((width - wide) // 2), height, width) if centered else (0, 0, height, width)

    return Window(window, value)


def rescaled(table: Floats, factor: float, offset: float) -> Floats:
    """The table times `factor` plus `offset`, rounded to float32 after each, as transformers does."""
    values: Floats = (table.astype(np.float64) * factor).astype(np.float32)
    return values + np.float32(offset) if offset else values


def normalized(table: Floats, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """The table minus its row's mean, divided by its row's std, in float32."""
    values: Floats = (table - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    return values


def bilinear(levels: Levels, height: int, width: int) -> Levels:
    """Levels (h, w, 3) resized to (height, width) as OpenCV's INTER_LINEAR does it on 8 bits: from two neighbours a
    side, half-pixel centres, weights of 11 bits."""
    (above, below), down = _neighbours(levels.shape[0], height)
    (left, right), across = _neighbours(levels.shape[1], width)

    def row(at: NDArray[np.int64]) -> NDArray[np.int32]:
        lines = levels[at]
        return (lines[:, left] * across[0][:, None] + lines[:, right] * across[1][:, None]) >> 4

    upper, lower = ((row(at) * weight[:, None, None]) >> 16 for at, weight in zip((above, below), down))
    result: Levels = ((upper + lower + 2) >> 2).astype(np.uint8)
    return result


def _neighbours(old: int, new: int) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int32]]]:
    """The two old positions that each new one lies between, and their weights."""
    at = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32).clip(0, old - 1)
    first = np.floor(at).astype(np.int64)
    share = np.rint((at - first) * (1 << SHIFT)).astype(np.int32)
    return [first, np.minimum(first + 1, old - 1)], [(1 << SHIFT) - share, share]
