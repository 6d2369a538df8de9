"""Compute the height and width to resize an image to, by the rules of transformers' image processors.

Knows numbers only. Where a rule cuts or rounds is part of the rule: one pixel of difference changes every value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Side = float
Rule = Callable[["Size", int, int], tuple[Side, Side]]


@dataclass(frozen=True)
class Size:
    """A rule with its lengths: `keys` names the form, in alphabetical order, `lengths` has one length for each key.

    `multiple`: both sides become a multiple of it, rounded `down`, or else to the nearest one (half to even).
    """

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    multiple: int = 1
    down: bool = False

    def of(self, height: int, width: int) -> tuple[int, int]:
        """The new height and width of an image of that height and width; a side may come out as 0."""
        sides = RULES[self.keys](self, height, width)
        new_height, new_width = (self._multiple_of(side) for side in sides)
        return new_height, new_width

    @property
    def fixed(self) -> tuple[int, int] | None:
        """The size that every image is resized to, if it is one."""
        return self.of(1, 1) if self.keys == ("height", "width") else None

    def _multiple_of(self, side: Side) -> int:
        if self.down:
            return math.floor(side / self.multiple) * self.multiple
        return round(side / self.multiple) * self.multiple


def _exact(size: Size, height: int, width: int) -> tuple[Side, Side]:
    return size.lengths[0], size.lengths[1]


def _shortest(size: Size, height: int, width: int) -> tuple[Side, Side]:
    """The short side gets the length, the long one follows, cut to whole pixels."""
    short, long = sorted((height, width))
    new_long = int(size.lengths[0] * long / short)
    return (new_long, size.lengths[0]) if width <= height else (size.lengths[0], new_long)


def _shortest_within(size: Size, height: int, width: int) -> tuple[Side, Side]:
    """As `_shortest`, but the long side gets at most its own length (DETR; with a multiple, YOLOS)."""
    longest, short = size.lengths
    exact: float = short
    if max(height, width) / min(height, width) * short > longest:
        exact = longest * min(height, width) / max(height, width)
        short = round(exact)
    tall = width < height
    if min(height, width) == short and not (tall and size.multiple > 1):  # YOLOS does not stop here for tall images
        return height, width
    return (int(exact * height / width), short) if tall else (short, int(exact * width / height))


def _longest(size: Size, height: int, width: int) -> tuple[Side, Side]:
    """The long side gets the length, both rounded half up (SAM)."""
    scale = size.lengths[0] / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _inside(size: Size, height: int, width: int) -> tuple[Side, Side]:
    """The largest size within both lengths, cut to whole pixels; small images grow."""
    scale = min(size.lengths[0] / height, size.lengths[1] / width)
    return int(height * scale), int(width * scale)


def _nearest(size: Size, height: int, width: int) -> tuple[Side, Side]:
    """Of the two scales that reach one of the lengths, the one nearer to 1 for both sides; not rounded yet (DPT)."""
    by_height, by_width = size.lengths[0] / height, size.lengths[1] / width
    scale = by_width if abs(1 - by_width) < abs(1 - by_height) else by_height
    return scale * height, scale * width


RULES: dict[tuple[str, ...], Rule] = {
    ("height", "width"): _exact,
    ("shortest_edge",): _shortest,
    ("longest_edge", "shortest_edge"): _shortest_within,
    ("longest_edge",): _longest,
    ("max_height", "max_width"): _inside,
    ("near_height", "near_width"): _nearest,
}
