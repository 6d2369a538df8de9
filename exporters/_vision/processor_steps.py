"""The steps of each image processor class, in order, and how its settings map to them.

Knows classes by name only and imports none: `preprocessor` makes the instance that is read here. One tuple a class, and
a part is one step, or none where the values switch it off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekit.errors import UnsupportedError

Step = dict[str, Any]

EXACT, SHORTEST = ("height", "width"), ("shortest_edge",)
WITHIN, INSIDE, LONGEST = ("longest_edge", "shortest_edge"), ("max_height", "max_width"), ("longest_edge",)


class Processor:
    """An instance of a class of transformers, whose values are checked as they are read."""

    def __init__(self, name: str, processor: Any) -> None:
        self.name, self._processor = name, processor

    def unsupported(self, key: str, value: object, known: str) -> UnsupportedError:
        return UnsupportedError(f"the image processor {self.name} has {key} {value!r}", hint=f"known: {known}")

    def value(self, key: str) -> Any:
        return getattr(self._processor, key, None)

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if value not in (True, False, None):
            raise self.unsupported(key, value, "true, false")
        return bool(value)

    def whole(self, key: str) -> int:
        return self._whole(key, self.value(key))

    def _whole(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.unsupported(key, value, "a whole number above 0")
        return value

    def number(self, key: str) -> float:
        value = self.value(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise self.unsupported(key, value, "a number above 0")
        return float(value)

    def channels(self, key: str) -> list[float]:
        """One number for each of red, green and blue; a single one counts for all three."""
        value = self.value(key)
        values = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(values) != 3 or not all(isinstance(item, (int, float)) for item in values):
            raise self.unsupported(key, value, "a number, or three")
        return [float(item) for item in values]

    def size(self, key: str, *forms: tuple[str, ...]) -> dict[str, int]:
        stated = dict(self.value(key) or {})
        if tuple(sorted(stated)) not in forms:
            raise self.unsupported(key, stated, "; ".join(map(", ".join, forms)))
        return {side: self._whole(f"{key}.{side}", length) for side, length in stated.items()}

    def resample(self) -> int:
        value = self.value("resample")
        if not isinstance(value, int) or not 0 <= value <= 5:
            raise self.unsupported("resample", value, "0 to 5")
        return int(value)


Part = Callable[[Processor], list[Step]]


def _resized(processor: Processor, *forms: tuple[str, ...]) -> list[Step]:
    if not processor.flag("do_resize"):
        return []
    return [{"step": "resize", "size": processor.size("size", *forms), "resample": processor.resample()}]


def _resize(processor: Processor) -> list[Step]:
    return _resized(processor, EXACT, SHORTEST, WITHIN, INSIDE)


def _convnext_resize(processor: Processor) -> list[Step]:
    """Below 384 a larger resize and a crop, else a square that keeps no ratio."""
    steps = _resized(processor, SHORTEST)
    for step in steps:
        side = step["size"]["shortest_edge"]
        if side >= 384:
            step["size"] = {"height": side, "width": side}
        else:
            step["size"] = {"shortest_edge": int(side / processor.number("crop_pct"))}
            return [step, {"step": "center_crop", "height": side, "width": side}]
    return steps


def _detr_resize(processor: Processor) -> list[Step]:
    return _resized(processor, EXACT, WITHIN, INSIDE)


def _yolos_resize(processor: Processor) -> list[Step]:
    """Where the sides' ratio is kept, both become multiples of 16."""
    steps = _detr_resize(processor)
    return [
        step | {"multiple": 16, "rounding": "down"} if tuple(sorted(step["size"])) == WITHIN else step for step in steps
    ]


def _dpt_resize(processor: Processor) -> list[Step]:
    steps = _resized(processor, EXACT)
    for step in steps:
        if processor.flag("keep_aspect_ratio"):
            step["size"] = {f"near_{side}": length for side, length in step["size"].items()}
        step |= {"multiple": processor.whole("ensure_multiple_of"), "rounding": "nearest"}
    return steps


def _sam_resize(processor: Processor) -> list[Step]:
    return _resized(processor, LONGEST)


def _center_crop(processor: Processor) -> list[Step]:
    if not processor.flag("do_center_crop"):
        return []
    return [{"step": "center_crop", **processor.size("crop_size", EXACT)}]


def _rescale(processor: Processor) -> list[Step]:
    if not processor.flag("do_rescale"):
        return []
    offset = {"offset": -1.0} if processor.flag("rescale_offset") else {}
    return [{"step": "rescale", "factor": processor.number("rescale_factor"), **offset}]


def _normalize(processor: Processor) -> list[Step]:
    if not processor.flag("do_normalize"):
        return []
    return [{"step": "normalize", "mean": processor.channels("image_mean"), "std": processor.channels("image_std")}]


def _include_top(processor: Processor) -> list[Step]:
    """EfficientNet divides by the deviation once more, whether it normalized before or not."""
    if not processor.flag("include_top"):
        return []
    return [{"step": "normalize", "mean": [0.0, 0.0, 0.0], "std": processor.channels("image_std")}]


def _flip_channels(processor: Processor) -> list[Step]:
    return [{"step": "flip_channels"}] if processor.flag("do_flip_channel_order") else []


def _pad(processor: Processor) -> list[Step]:
    """To `pad_size`; without it, images are padded to the largest of a batch, which does nothing to one image."""
    if not processor.flag("do_pad") or processor.value("pad_size") is None:
        return []
    return [{"step": "pad", **processor.size("pad_size", EXACT)}]


def _dpt_pad(processor: Processor) -> list[Step]:
    if not processor.flag("do_pad") or processor.value("size_divisor") is None:
        return []
    return [{"step": "pad_multiple", "multiple": processor.whole("size_divisor"), "place": "center"}]


PLAIN: tuple[Part, ...] = (_resize, _center_crop, _rescale, _normalize, _pad)
CROPPED: tuple[Part, ...] = (_resize, _center_crop, _rescale, _normalize)
DETR: tuple[Part, ...] = (_detr_resize, _rescale, _normalize, _pad)
ORDERS: dict[str, tuple[Part, ...]] = {
    "ConvNextImageProcessor": (_convnext_resize, _center_crop, _rescale, _normalize),
    "BeitImageProcessor": CROPPED,
    "MobileNetV2ImageProcessor": CROPPED,
    "EfficientNetImageProcessor": (_resize, _center_crop, _rescale, _normalize, _include_top),
    "MobileViTImageProcessor": (_resize, _rescale, _center_crop, _flip_channels),
    "SegformerImageProcessor": (_resize, _rescale, _normalize),
    "DetrImageProcessor": DETR,
    "ConditionalDetrImageProcessor": DETR,
    "DeformableDetrImageProcessor": DETR,
    "RTDetrImageProcessor": DETR,
    "YolosImageProcessor": (_yolos_resize, _rescale, _normalize, _pad),
    "DPTImageProcessor": (_dpt_resize, _rescale, _normalize, _dpt_pad),
    "SamImageProcessor": (_sam_resize, _center_crop, _rescale, _normalize, _pad),
}
# Keys beyond those of every class; the first of DETR's are of older files.
KEYS: dict[str, set[str]] = {
    "CLIPImageProcessor": {"use_square_size"},
    "ConvNextImageProcessor": {"crop_pct"},
    "EfficientNetImageProcessor": {"rescale_offset", "include_top"},
    "MobileViTImageProcessor": {"do_flip_channel_order"},
    "DetrImageProcessor": {"max_size", "pad_and_return_pixel_mask"},
    "ConditionalDetrImageProcessor": {"max_size", "pad_and_return_pixel_mask"},
    "DeformableDetrImageProcessor": {"max_size", "pad_and_return_pixel_mask"},
    "YolosImageProcessor": {"max_size", "pad_and_return_pixel_mask"},
    "DPTImageProcessor": {"ensure_multiple_of", "size_divisor", "keep_aspect_ratio"},
}
