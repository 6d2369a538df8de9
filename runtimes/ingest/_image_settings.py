"""Parse settings["image"], a list of steps, to `Steps`; raise BundleError for invalid ones.

    {"step": "resize", "size": SIZE, "resample": 0..5}     optional "multiple": n with "rounding": "down" or "nearest"
    {"step": "letterbox", "height": h, "width": w, "value": 0..255}
    {"step": "center_crop", "height": h, "width": w}
    {"step": "pad", "height": h, "width": w}               bottom and right; optional "value", default 0
    {"step": "pad_multiple", "multiple": n}                optional "place": "center" (default "end"), "value"
    {"step": "rescale", "factor": x}                       optional "offset", default 0
    {"step": "normalize", "mean": [r, g, b], "std": [r, g, b]}
    {"step": "flip_channels"}                              RGB to BGR

SIZE is one of {height, width}, {shortest_edge}, {shortest_edge, longest_edge}, {longest_edge}, {max_height, max_width},
{near_height, near_width}. `resize` and `letterbox` work on levels, so they come before `rescale` and `normalize`;
those two come before any step that is on float32 already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.errors import BundleError

from ._image_sizes import RULES, Size
from ._image_steps import (
    Letterbox,
    Resize,
    Steps,
    Window,
    center_crop,
    normalized,
    pad,
    pad_multiple,
    rescaled,
)

MAX_STEPS = 32
MAX_SIDE = 16384  # pixels that a setting may ask for
HINT = "export the model again"
# step -> its keys, and those it may lack with what they are then
KEYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "resize": (("size", "resample"), {"multiple": 1, "rounding": "nearest"}),
    "letterbox": (("height", "width", "value"), {}),
    "center_crop": (("height", "width"), {}),
    "pad": (("height", "width"), {"value": 0}),
    "pad_multiple": (("multiple",), {"place": "end", "value": 0}),
    "rescale": (("factor",), {"offset": 0}),
    "normalize": (("mean", "std"), {}),
    "flip_channels": ((), {}),
}


def parse(stated: object) -> Steps:
    """The steps that the settings state. Raises BundleError naming the step that is wrong."""
    if not isinstance(stated, list) or len(stated) > MAX_STEPS:
        raise BundleError(f"the image settings are not a list of at most {MAX_STEPS} steps", hint=HINT)
    steps, on_values = Steps(), False
    for number, item in enumerate(stated):
        step = _Step(number, item)
        on_values = on_values or step.kind in ("rescale", "normalize")
        with np.errstate(all="ignore"):
            steps = _added(steps, step, on_values)
        if not np.isfinite(steps.table).all():
            raise step.wrong("makes values that float32 cannot hold")
    return steps


class _Step:
    """One entry of the list: its kind, and its values by key, checked as they are read."""

    def __init__(self, number: int, item: object) -> None:
        kind = item.get("step") if isinstance(item, dict) else None
        self.kind, self.name = str(kind), f"image step {number}"
        if not isinstance(item, dict) or not isinstance(kind, str) or kind not in KEYS:
            raise self.wrong(f"is {kind!r}, and known are {', '.join(KEYS)}")
        keys, optional = KEYS[kind]
        self.name += f" ({kind})"
        self.values: dict[str, Any] = {**optional, **item}
        for key in sorted({"step", *keys, *optional} ^ set(self.values), key=str):
            raise self.wrong(f"has {'an unknown' if key in self.values else 'no'} key {key!r}")

    def wrong(self, what: str) -> BundleError:
        return BundleError(f"{self.name} {what}", hint=HINT)

    def whole(self, key: str, low: int, high: int) -> int:
        return self._whole(key, self.values[key], low, high)

    def _whole(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(f"has {key} {value!r}, and {low} to {high} are allowed")
        return value

    def number(self, key: str) -> float:
        return self._number(key, self.values[key])

    def _number(self, key: str, value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong(f"has {key} {value!r}, not a number")
        return float(value)

    def numbers(self, key: str) -> list[float]:
        value = self.values[key]
        if not isinstance(value, list) or len(value) != 3:
            raise self.wrong(f"has {key} {value!r}, not three numbers")
        return [self._number(key, item) for item in value]

    def choice(self, key: str, *known: str) -> str:
        value = self.values[key]
        if value not in known:
            raise self.wrong(f"has {key} {value!r}, and known are {', '.join(known)}")
        return str(value)

    def height_width(self) -> tuple[int, int]:
        return self.whole("height", 1, MAX_SIDE), self.whole("width", 1, MAX_SIDE)

    def size(self) -> Size:
        stated = self.values["size"]
        keys = tuple(sorted(map(str, stated))) if isinstance(stated, dict) else ()
        if keys not in RULES:
            raise self.wrong(f"has size {stated!r}; known forms: {'; '.join(map(', '.join, RULES))}")
        lengths = tuple(self._whole(key, stated[key], 1, MAX_SIDE) for key in keys)
        down = self.choice("rounding", "down", "nearest") == "down"
        return Size(keys, lengths, self.whole("multiple", 1, MAX_SIDE), down)


def _added(steps: Steps, step: _Step, on_values: bool) -> Steps:
    if step.kind in ("rescale", "normalize") and steps.values:
        raise step.wrong("comes after a step that is on float32 already")
    match step.kind:
        case "rescale":
            return replace(steps, table=rescaled(steps.table, step.number("factor"), step.number("offset")))
        case "normalize":
            return replace(steps, table=normalized(steps.table, step.numbers("mean"), step.numbers("std")))
        case "flip_channels":
            first, second, third = steps.channels
            return replace(steps, table=steps.table[::-1], channels=(third, second, first))
    geometric = GEOMETRIC[step.kind](step)
    if not on_values:
        if isinstance(geometric, Window) and not 0 <= geometric.value <= 255:
            raise step.wrong(f"has value {geometric.value:g}, and levels are 0 to 255")
        return replace(steps, levels=(*steps.levels, geometric))
    if not isinstance(geometric, Window):
        raise step.wrong("comes after the levels are gone")
    return replace(steps, values=(*steps.values, geometric))


GEOMETRIC: Mapping[str, Callable[[_Step], Resize | Letterbox | Window]] = {
    "resize": lambda step: Resize(step.size(), step.whole("resample", 0, 5)),
    "letterbox": lambda step: Letterbox(*step.height_width(), step.whole("value", 0, 255)),
    "center_crop": lambda step: center_crop(*step.height_width()),
    "pad": lambda step: pad(*step.height_width(), step.number("value")),
    "pad_multiple": lambda step: pad_multiple(
        step.whole("multiple", 1, MAX_SIDE), step.number("value"), step.choice("place", "end", "center") == "center"
    ),
}
