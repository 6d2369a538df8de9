"""Read a Hugging Face image processor as the list of steps in `settings["image"]`.

Values come from an instance of transformers' class, made of the file's keys, so that what a file leaves out is what the
installed transformers takes. A class, a key or a form of `size` that is not known is refused by name, since leaving it
out would change pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit import distribution
from edgekit.core import Source
from edgekit.errors import BundleError, DeviceError, UnsupportedError

from .._json_files import read_object
from .processor_steps import EXACT, KEYS, ORDERS, PLAIN, WITHIN, Part, Processor, Step

FILES = ("preprocessor_config.json", "processor_config.json")
AGAIN = "download or save the model again"
# Methods that decide about pixels: a class that has them all from transformers' PilBackend is a plain one.
METHODS = (
    *(
        "preprocess",
        "_preprocess",
        "_preprocess_image_like_inputs",
        "_prepare_image_like_inputs",
        "_standardize_kwargs",
    ),
    *("process_image", "convert_to_rgb", "resize", "center_crop", "rescale", "normalize", "pad"),
)
# Keys of every class, in two kinds: those that the steps below read, and those that change no pixel of one image.
STEP_KEYS = {
    *("do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale"),
    *("rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "pad_size", "data_format"),
}
OTHER_KEYS = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys"),
    *("do_convert_rgb", "input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length"),
    *("do_reduce_labels", "reduce_labels", "format", "do_convert_annotations", "mask_size", "mask_pad_size"),
}
# model_type without an entry in transformers' own table -> the one whose processor it takes
SAME_AS = {
    "dinov2_with_registers": "dinov2",
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "chinese_clip_vision_model": "chinese_clip",
}


def steps_of(source: Source) -> list[Step]:
    """The steps of a model's image processor, which weights that were trained must have beside them.

    Its class alone does not say which mean and size a model was trained with. Raises UnsupportedError, BundleError.
    """
    if not source.random and not any((source.folder / file).is_file() for file in FILES):
        raise UnsupportedError(
            f"{source.id} does not say how its images are prepared: it has no {FILES[0]}",
            hint=f"save the model's image processor into its folder: {FILES[0]}",
        )
    return image_steps(source.folder, source.config)


def image_steps(folder: Path, config: Mapping[str, Any]) -> list[Step]:
    """The steps of the folder's image processor; `config` is config.json, which decides where no file does.

    Without a processor's file, sizes come from the config's `image_size`, and the rest from the class.
    Raises UnsupportedError for a class, key or value that is not known, BundleError for a bad file.
    """
    _refuse_other_channels(config)
    stated = _stated(folder)
    name = _name(stated, config)
    processor_class, parts = _known(name)
    _refuse_unknown(name, stated)
    keys = stated or _sizes(processor_class, config)
    try:
        processor = processor_class(**keys)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"transformers cannot make a {name} of the preprocessor's settings", hint=AGAIN, cause=str(error)[:2000]
        ) from error
    return [step for part in parts for step in part(Processor(name, processor))]


def output_size(steps: list[Step]) -> tuple[int, int] | None:
    """(height, width) that every image has after these steps, or None where it depends on the image."""
    size: tuple[int, int] | None = None
    for step in steps:
        if step["step"] == "resize":
            stated, exact = step["size"], set(step["size"]) == set(EXACT)
            size = (_multiple(stated["height"], step), _multiple(stated["width"], step)) if exact else None
        elif step["step"] in ("center_crop", "pad", "letterbox"):
            size = step["height"], step["width"]
        elif step["step"] == "pad_multiple" and size:
            height, width = (-(-side // step["multiple"]) * step["multiple"] for side in size)
            size = height, width
    return size


def _multiple(side: int, step: Step) -> int:
    multiple = int(step.get("multiple", 1))
    return (side // multiple if step.get("rounding") == "down" else round(side / multiple)) * multiple


def _vision(config: Mapping[str, Any], key: str) -> Any:
    """What config.json says of the vision model: at its top, or in its vision_config."""
    vision = config.get("vision_config")
    return config.get(key) or (vision.get(key) if isinstance(vision, Mapping) else None)


def _refuse_other_channels(config: Mapping[str, Any]) -> None:
    channels = _vision(config, "num_channels")
    if channels not in (None, 3):
        raise UnsupportedError(f"the model takes images of {channels!r} channels", hint="known: 3, red, green and blue")


def _stated(folder: Path) -> dict[str, Any]:
    """What the folder's files say; processor_config.json goes before, as in transformers."""
    nested = read_object(folder / "processor_config.json").get("image_processor")
    if nested is None:
        return read_object(folder / "preprocessor_config.json")
    if not isinstance(nested, dict):
        raise BundleError("processor_config.json has an image_processor that is not an object", hint=AGAIN)
    return nested


def _name(stated: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class's name without the back end at its end."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as TABLE

    name = stated.get("image_processor_type") or stated.get("feature_extractor_type")
    if name is None:
        kind = str(config.get("model_type"))
        name = (TABLE.get(kind) or TABLE.get(SAME_AS.get(kind, "")) or {}).get("pil")
        if name is None:
            raise UnsupportedError(
                f"neither a file nor the model_type {kind!r} states how images are prepared",
                hint="save the model's image processor into its folder: preprocessor_config.json",
            )
    if not isinstance(name, str):
        raise BundleError(f"the preprocessor's type is {name!r}, not a name", hint=AGAIN)
    return name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")


def _known(name: str) -> tuple[Any, tuple[Part, ...]]:
    """The class for Pillow and its parts in order. Raises UnsupportedError, DeviceError."""
    from transformers.image_processing_backends import PilBackend
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    if find_spec("PIL") is None:
        raise DeviceError("reading image processors needs Pillow", hint=distribution.install("vision"))
    found = get_image_processor_class_from_name(f"{name}Pil")
    if found is not None and name in ORDERS:
        return found, ORDERS[name]
    if found is not None and all(getattr(found, method) is getattr(PilBackend, method) for method in METHODS):
        return found, PLAIN
    raise UnsupportedError(f"the image processor {name!r} is not known", hint=f"known: plain ones, {', '.join(ORDERS)}")


def _refuse_unknown(name: str, stated: Mapping[str, Any]) -> None:
    """A key that the class does not have is refused too: whoever wrote it meant it."""
    known = STEP_KEYS | OTHER_KEYS | KEYS.get(name, set())
    for key, value in stated.items():
        if key not in known and value is not None:
            raise UnsupportedError(
                f"the image processor {name} has the key {key!r}, which is not known",
                hint="remove it from the preprocessor's file if it changes no pixel",
            )
    if stated.get("data_format") not in (None, "channels_first"):
        raise UnsupportedError(
            f"the image processor's data_format is {stated['data_format']!r}", hint="known: channels_first"
        )


def _sizes(processor_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Size and crop for the config's `image_size`, in the proportion that the class has; {} where it says none."""
    stated = _vision(config, "image_size")
    sides = stated if isinstance(stated, (list, tuple)) else (stated, stated)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        if stated is None:
            return {}
        raise BundleError(f"config.json's image_size is {stated!r}", hint=AGAIN)
    default = processor_class()
    size, crop = dict(default.size), dict(default.crop_size or {}) if default.do_center_crop else {}
    form = tuple(sorted(size))
    if form == WITHIN:
        return {}
    scale = max(size.values()) / max(crop.values()) if crop else 1.0
    height, width = (round(side * scale) for side in sides)
    keys: dict[str, Any] = {"size": {"height": height, "width": width}}
    if form != EXACT:
        keys = {"size": {form[0]: max(height, width)}}
    if crop:
        keys["crop_size"] = {"height": sides[0], "width": sides[1]}
    if default.do_pad and default.pad_size:
        keys["pad_size"] = {"height": sides[0], "width": sides[1]}
    return keys
