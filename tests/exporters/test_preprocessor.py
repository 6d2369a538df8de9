"""A folder's image processor as steps: every class against transformers' own processor, to the last bit."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.errors import BundleError, DeviceError, EdgeKitError, InputError, UnsupportedError
from edgekit.exporters._vision.preprocessor import image_steps, output_size
from edgekit.runtimes.ingest import image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = {"size": {"shortest_edge": 40}, "crop_size": {"height": 45, "width": 51}}
# (model_type, preprocessor_config.json): each class with its defaults, and with every key that its order depends on
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vit", {"do_resize": True}),
    ("vit", {"size": 48, "resample": 3, "image_mean": MEAN, "image_std": STD}),
    ("vit", {"size": [45, 51], "resample": 0, "rescale_factor": 0.01, "do_normalize": False}),
    ("vit", {"size": {"shortest_edge": 30, "longest_edge": 60}, "do_rescale": False, "resample": 4}),
    ("vit", {"size": {"max_height": 40, "max_width": 55}, "resample": 5, "image_mean": 0.4, "image_std": 0.2}),
    ("vit", {"do_resize": None, "do_rescale": False, "do_normalize": None}),
    ("vit", {"size": {"max_height": 40, "max_width": 55}, "do_pad": True, "pad_size": {"height": 60, "width": 56}}),
    ("swin", {"feature_extractor_type": "ViTFeatureExtractor", "size": 40, "do_convert_rgb": False}),
    ("resnet", {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 47, "crop_pct": 0.95}),
    ("convnext", {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}),
    ("regnet", {"image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 50}}),
    ("convnextv2", {"size": 40, "do_center_crop": True, "crop_size": 44, "do_resize": True}),
    ("convnext", {"do_resize": False}),
    ("deit", {"size": 45, "crop_size": 40, "image_mean": MEAN, "image_std": STD}),
    ("deit", {"do_resize": False, "crop_size": [31, 60]}),
    ("mobilenet_v1", {**SIZES, "resample": 2}),
    ("mobilenet_v2", {**SIZES, "image_processor_type": "MobileNetV2ImageProcessor", "do_reduce_labels": True}),
    ("efficientnet", {"size": {"height": 70, "width": 66}, "crop_size": 57, "do_center_crop": True, "resample": 0}),
    ("efficientnet", {"size": 50, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
    ("efficientnet", {"size": 50, "do_normalize": False, "image_std": STD}),
    ("efficientnet", {"size": 50, "do_rescale": False, "do_normalize": False}),
    ("dinov2", {"size": {"shortest_edge": 48}, "crop_size": {"height": 42, "width": 42}}),
    ("mobilevit", {**SIZES, "image_mean": MEAN, "image_std": STD, "do_normalize": True}),
    ("mobilevitv2", {**SIZES, "do_flip_channel_order": False}),
    ("beit", {"size": {"height": 50, "width": 44}, "crop_size": 40, "do_center_crop": True, "reduce_labels": False}),
    ("clip", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 30, "crop_size": 30}),
    ("clip", {"image_processor_type": "CLIPImageProcessor", "use_square_size": True, "crop_size": 20}),
    ("siglip", {"size": {"height": 32, "width": 32}, "processor_class": "SiglipProcessor"}),
    ("chinese_clip", {"size": {"height": 40, "width": 40}, "do_center_crop": False}),
    ("segformer", {"size": {"height": 64, "width": 96}}),
    ("detr", {"size": 50, "max_size": 80}),
    ("conditional_detr", {"size": {"shortest_edge": 33, "longest_edge": 80}, "do_pad": False}),
    ("deformable_detr", {"size": {"shortest_edge": 33, "longest_edge": 80}, "pad_size": {"height": 80, "width": 80}}),
    ("rt_detr", {"size": {"height": 64, "width": 48}}),
    ("yolos", {"size": {"shortest_edge": 50, "longest_edge": 120}}),
    ("yolos", {"size": {"height": 50, "width": 61}}),
    ("dpt", {"size": 48, "keep_aspect_ratio": True, "ensure_multiple_of": 14}),
    ("dpt", {"size": 48, "ensure_multiple_of": 16, "do_pad": True, "size_divisor": 20}),
    ("sam", {"size": {"longest_edge": 96}, "pad_size": {"height": 96, "width": 96}}),
]
EDGES = [(1, 1), (1, 7), (97, 61), (61, 97), (40, 40), (48, 48), (30, 60), (384, 384), (33, 80), (64, 1)]
NAMES = [f"{kind}-{number}" for number, (kind, _) in enumerate(CASES)]


def saved(folder: Path, kind: str, stated: dict[str, Any] | None = None, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **config}), encoding="utf-8")
    if stated is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(stated), encoding="utf-8")
    return folder


@cache
def both(number: int) -> tuple[Any, image.Images]:
    """transformers' processor of a case, and ours."""
    from transformers import AutoImageProcessor

    kind, stated = CASES[number]
    with TemporaryDirectory() as name:
        folder = saved(Path(name), kind, stated)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        return processor, image.open(folder, {"image": image_steps(folder, {"model_type": kind})}, threads=1)


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Noise over a slope, so that every filter shows."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width).astype(np.uint8)[None, :, None]
    return Image.fromarray(slope + random.integers(0, 56, (height, width, 3), dtype=np.uint8))


def check(number: int, height: int, width: int, seed: int) -> None:
    processor, ours = both(number)
    drawn = picture(height, width, seed)
    try:
        reference = processor(drawn, return_tensors="np")["pixel_values"][0]
    except ValueError:  # a side of 1 pixel, rounded to 0
        with pytest.raises(InputError, match="would be resized to"):
            ours.encode([drawn])
        assert min(height, width) == 1
        return
    (pixels,) = ours.encode([drawn])
    assert pixels.pixels.dtype == np.float32
    assert pixels.pixels.flags.c_contiguous
    assert np.array_equal(pixels.pixels, reference)
    assert (pixels.height, pixels.width) == (height, width)
    assert ours.size in (None, pixels.pixels.shape[1:])


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_pixels_are_those_of_transformers(number: int) -> None:
    for height, width in EDGES:
        check(number, height, width, seed=height)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, len(CASES) - 1), st.integers(20, 150), st.integers(20, 150), st.integers(0, 99))
def test_any_size_in_any_class(number: int, height: int, width: int, seed: int) -> None:
    check(number, height, width, seed)


def test_a_photo_of_twelve_megapixels() -> None:
    check(next(at for at, case in enumerate(CASES) if case[0] == "clip"), 3000, 4000, 1)


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_the_size_is_what_comes_out(number: int) -> None:
    kind, stated = CASES[number]
    with TemporaryDirectory() as name:
        steps = image_steps(saved(Path(name), kind, stated), {"model_type": kind})
    assert output_size(steps) == both(number)[1].size
    assert json.loads(json.dumps(steps)) == steps


# Without a file: the class's own settings, with the sizes that the config says
RANDOM: list[tuple[str, dict[str, Any], tuple[int, int] | None]] = [
    ("vit", {"image_size": 30}, (30, 30)),
    ("vit", {"image_size": [30, 44]}, (30, 44)),
    ("deit", {"image_size": 224}, (224, 224)),
    ("swin", {}, (224, 224)),
    ("resnet", {}, (384, 384)),
    ("convnext", {"image_size": 64}, (64, 64)),
    ("mobilenet_v2", {"image_size": 96}, (96, 96)),
    ("mobilevit", {"image_size": 256}, (256, 256)),
    ("efficientnet", {"image_size": 61}, (61, 61)),
    ("dinov2", {"image_size": [56, 42]}, (56, 42)),
    ("dinov2_with_registers", {"image_size": 28}, (28, 28)),
    ("clip", {"vision_config": {"image_size": 32}}, (32, 32)),
    ("clip_vision_model", {"image_size": 32}, (32, 32)),
    ("siglip", {"vision_config": {"image_size": 48}}, (48, 48)),
    ("sam", {"vision_config": {"image_size": 96}}, (96, 96)),
    ("yolos", {"image_size": [64, 96]}, None),
]


@pytest.mark.parametrize(("kind", "config", "size"), RANDOM)
def test_without_a_file_sizes_come_from_the_config(
    tmp_path: Path, kind: str, config: dict[str, Any], size: tuple[int, int] | None
) -> None:
    steps = image_steps(saved(tmp_path, kind, **config), {"model_type": kind, **config})
    assert output_size(steps) == size
    (pixels,) = image.open(tmp_path, {"image": steps}).encode([picture(50, 40, 0)])
    assert size in (None, pixels.pixels.shape[1:])


def test_the_proportion_of_resize_and_crop_is_the_class_s(tmp_path: Path) -> None:
    resize, crop, *_ = image_steps(saved(tmp_path, "deit"), {"model_type": "deit", "image_size": 112})
    assert (resize["size"], crop["height"]) == ({"height": 128, "width": 128}, 112)


def test_the_nested_file_goes_before(tmp_path: Path) -> None:
    saved(tmp_path, "vit", {"size": 10})
    nested = {"image_processor": {"image_processor_type": "DeiTImageProcessorPil", "size": 20, "crop_size": 16}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested), encoding="utf-8")
    steps = image_steps(tmp_path, {"model_type": "vit"})
    assert [step["step"] for step in steps] == ["resize", "center_crop", "rescale", "normalize"]
    (tmp_path / "processor_config.json").write_text('{"processor_class": "ViTProcessor"}', encoding="utf-8")
    assert image_steps(tmp_path, {"model_type": "vit"})[0]["size"] == {"height": 10, "width": 10}


def test_pad_multiple_has_a_size_where_what_comes_before_has() -> None:
    pad: dict[str, Any] = {"step": "pad_multiple", "multiple": 16}
    assert output_size([{"step": "resize", "size": {"height": 30, "width": 32}, "resample": 2}, pad]) == (32, 32)
    assert output_size([pad]) is None
    down = {"step": "resize", "size": {"height": 30, "width": 32}, "resample": 2, "multiple": 20, "rounding": "down"}
    assert output_size([down]) == (20, 20)
    assert output_size([down | {"rounding": "nearest"}]) == (40, 40)


BAD: list[tuple[type[EdgeKitError], str, str, dict[str, Any] | None]] = [
    (UnsupportedError, "'Idefics3ImageProcessor'", "idefics3", {"image_processor_type": "Idefics3ImageProcessor"}),
    (UnsupportedError, "'OwnImageProcessor'", "vit", {"image_processor_type": "OwnImageProcessor"}),
    (UnsupportedError, "model_type 'bert'", "bert", None),
    (UnsupportedError, "'DINOv3ViTImageProcessor'", "dinov3_vit", {"image_processor_type": "DINOv3ViTImageProcessor"}),
    (UnsupportedError, "key 'crop_pct'", "vit", {"crop_pct": 0.9}),
    (UnsupportedError, "key 'do_sharpen'", "clip", {"do_sharpen": False}),
    (UnsupportedError, "data_format is 'channels_last'", "vit", {"data_format": "channels_last"}),
    (UnsupportedError, "do_resize 'yes'", "vit", {"do_resize": "yes"}),
    (UnsupportedError, r"size \{'longest_edge': 9\}", "vit", {"size": {"longest_edge": 9}}),
    (UnsupportedError, "size.height 0", "vit", {"size": {"height": 0, "width": 4}}),
    (UnsupportedError, "size", "detr", {"size": {"height": 4, "width": -1}}),
    (UnsupportedError, "resample 6", "vit", {"resample": 6}),
    (UnsupportedError, "resample None", "vit", {"resample": None}),
    (UnsupportedError, "rescale_factor '2'", "vit", {"rescale_factor": "2"}),
    (UnsupportedError, "image_mean", "vit", {"image_mean": [0.5]}),
    (UnsupportedError, "image_std", "vit", {"image_std": "0.5"}),
    (UnsupportedError, "ensure_multiple_of 0", "dpt", {"ensure_multiple_of": 0}),
    (UnsupportedError, "crop_pct 0", "resnet", {"size": 40, "crop_pct": 0.0}),
    (BundleError, "cannot make a ViTImageProcessor", "vit", {"size": {"height": 4}}),
    (UnsupportedError, "key 'size_divisor'", "detr", {"size_divisor": 32}),
    (BundleError, "type is 7", "vit", {"image_processor_type": 7}),
]


@pytest.mark.parametrize(("error", "words", "kind", "stated"), BAD)
def test_what_is_not_known_is_refused(
    tmp_path: Path, error: type[EdgeKitError], words: str, kind: str, stated: dict[str, Any] | None
) -> None:
    with pytest.raises(error, match=words) as caught:
        image_steps(saved(tmp_path, kind, stated), {"model_type": kind})
    assert caught.value.hint


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="image_size is 'big'"):
        image_steps(tmp_path, {"model_type": "vit", "image_size": "big"})
    with pytest.raises(BundleError, match=r"image_size is \[1, 2, 3\]"):
        image_steps(tmp_path, {"model_type": "vit", "image_size": [1, 2, 3]})
    (tmp_path / "processor_config.json").write_text('{"image_processor": 3}', encoding="utf-8")
    with pytest.raises(BundleError, match="not an object"):
        image_steps(tmp_path, {"model_type": "vit"})


@pytest.mark.parametrize("config", [{"num_channels": 1}, {"vision_config": {"num_channels": 4}}])
def test_a_model_of_other_channels_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"images of \d channels"):
        image_steps(tmp_path, {"model_type": "vit", **config})


def test_null_switches_a_step_off(tmp_path: Path) -> None:
    """As in transformers: the class's own value counts for a key that is missing, not for one that is null."""
    steps = image_steps(saved(tmp_path, "vit", {"do_normalize": None, "crop_pct": None}), {"model_type": "vit"})
    assert [step["step"] for step in steps] == ["resize", "rescale"]


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DeviceError) as caught:
        image_steps(tmp_path, {"model_type": "vit"})
    assert "edgekit-onnx[vision]" in caught.value.hint
