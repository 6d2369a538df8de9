"""Images to what a vision model takes: what can be read, how it is laid upright and on white, the steps."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgekit.errors import DeviceError
from edgekit.runtimes.ingest import image
from edgekit.runtimes.ingest._image_steps import bilinear

LEVELS: list[dict[str, Any]] = []  # no step: the pixels are the levels
SQUARE = {"step": "resize", "size": {"height": 8, "width": 8}, "resample": 2}
RESCALE = {"step": "rescale", "factor": 1 / 255}
NORMALIZE = {"step": "normalize", "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0]}


def opened(*steps: dict[str, Any], threads: int | None = 1) -> image.Images:
    return image.open(Path(), {"image": list(steps)}, threads=threads)


def levels(item: Any) -> Any:
    """(h, w, 3) of an item that goes through no step."""
    (pixels,) = opened().encode([item])
    assert (pixels.height, pixels.width) == pixels.pixels.shape[1:]
    return pixels.pixels.transpose(1, 2, 0)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Any:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def reference(picture: Image.Image) -> Any:
    """(h, w, 3) as transformers makes RGB."""
    from transformers.image_transforms import convert_to_rgb

    return convert_to_rgb(picture, return_numpy=True)


# ---------------------------------------------------------------- forms of an item


def test_every_form_of_an_image_is_read_alike(tmp_path: Path) -> None:
    array = noise(7, 5)
    data, file = saved(Image.fromarray(array)), tmp_path / "a.png"
    file.write_bytes(data)
    forms = [file, str(file), data, bytearray(data), memoryview(data), Image.fromarray(array), array]
    forms += [(array / 255).astype(np.float32), np.asfortranarray(array), array[::-1][::-1]]
    for form in forms:
        assert np.array_equal(levels(form), array)


def test_gray_arrays_have_three_equal_channels() -> None:
    array = noise(4, 6, channels=1)
    for form in (array, (array / 255).astype(np.float32)):
        assert np.array_equal(levels(form), np.repeat(array[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
def test_other_formats_are_read_as_pillow_reads_them(kind: str) -> None:
    data = saved(Image.fromarray(noise(33, 20)), kind)
    assert np.array_equal(levels(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_exif_is_obeyed(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(noise(9, 14)), kind, exif=exif.tobytes())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    for item in (data, Image.open(BytesIO(data))):
        assert np.array_equal(levels(item), upright)
        (pixels,) = opened(SQUARE).encode([item])
        assert (pixels.height, pixels.width) == upright.shape[:2]


def test_an_orientation_that_does_not_exist_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    array = noise(3, 4)
    assert np.array_equal(levels(saved(Image.fromarray(array), exif=exif.tobytes())), array)


def palette(**info: Any) -> Image.Image:
    picture = Image.fromarray(noise(6, 6)).quantize(16)
    picture.info.update(info)
    return picture


TRANSPARENT: list[tuple[str, Callable[[], bytes]]] = [
    ("RGBA", lambda: saved(Image.fromarray(noise(6, 5, 4), "RGBA"))),
    ("RGBA in WEBP", lambda: saved(Image.fromarray(noise(6, 5, 4), "RGBA"), "WEBP", lossless=True)),
    ("LA", lambda: saved(Image.fromarray(noise(6, 5, 2), "LA"))),
    ("a palette with one clear entry", lambda: saved(palette(), transparency=3)),
    ("a palette with an alpha an entry", lambda: saved(palette(), transparency=bytes(range(0, 256, 16)))),
    ("a clear colour", lambda: saved(Image.fromarray(noise(1, 1).repeat(4, 0)), transparency=(1, 2, 3))),
    ("a clear gray", lambda: saved(Image.fromarray(noise(6, 5, 1) // 64), transparency=2)),
]


@pytest.mark.parametrize(("name", "make"), TRANSPARENT, ids=[name for name, _ in TRANSPARENT])
def test_what_is_transparent_lies_on_white(name: str, make: Callable[[], bytes]) -> None:
    data = make()
    expected = reference(Image.open(BytesIO(data)))
    assert np.array_equal(levels(data), expected)
    assert np.array_equal(levels(Image.open(BytesIO(data))), expected)


def test_clear_pixels_are_white() -> None:
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, 0, 3] = 255
    assert levels(saved(Image.fromarray(array)))[..., 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_colour_modes_are_converted_as_transformers_does(mode: str) -> None:
    picture = Image.fromarray(noise(6, 5)).convert(mode)
    assert np.array_equal(levels(picture), reference(picture))


def test_a_cmyk_file_is_read() -> None:
    data = saved(Image.fromarray(noise(16, 16)).convert("CMYK"), "JPEG")
    assert np.array_equal(levels(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_gray_of_16_bits_keeps_its_upper_8() -> None:
    array = np.array([[0, 255, 256], [32767, 32768, 65535]], np.uint16)
    data = saved(Image.fromarray(array))
    assert Image.open(BytesIO(data)).mode == "I;16"
    for item in (data, Image.fromarray(array)):
        assert levels(item)[..., 1].tolist() == [[0, 0, 1], [127, 128, 255]]
    assert levels(saved(Image.fromarray(array), transparency=255))[..., 1].tolist() == [[0, 255, 1], [127, 128, 255]]


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == 3
    assert np.array_equal(levels(data), np.asarray(frames[0]))


# ---------------------------------------------------------------- one or several


def test_one_item_is_told_from_several() -> None:
    ingest, array = opened(), noise(2, 2)
    for item in ("a.png", Path("a.png"), b"", Image.fromarray(array), array, array[..., 0], 7):
        assert ingest.alone(item)
    for items in ([], [array], (array, array), array[None], iter([array])):
        assert not ingest.alone(items)
    assert ingest.encode([]) == []
    assert [pixels.position for pixels in ingest.encode(np.stack([array, array]), first=5)] == [5, 6]


def test_threads_give_the_same_in_the_same_order() -> None:
    items = [noise(20 + seed, 30, seed=seed) for seed in range(24)]
    one, many = opened(SQUARE, RESCALE), opened(SQUARE, RESCALE, threads=4)
    expected = one.encode(items)
    assert [pixels.digest for pixels in many.encode(items)] == [pixels.digest for pixels in expected]
    assert [pixels.digest for pixels in opened(SQUARE, RESCALE, threads=None).encode(items)] == [
        pixels.digest for pixels in expected
    ]
    assert len({pixels.digest for pixels in expected}) == len(items)


def test_one_file_that_is_not_loaded_yet_may_be_given_many_times() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(noise(300, 200)), exif=exif.tobytes())
    for _ in range(5):
        picture = Image.open(BytesIO(data))
        found = opened(SQUARE, threads=8).encode([picture] * 16)
        assert len({pixels.digest for pixels in found}) == 1
        assert {(pixels.height, pixels.width) for pixels in found} == {(200, 300)}


def test_pillow_s_warnings_do_not_escape_and_filters_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(saved(Image.fromarray(noise(8, 8)), "JPEG", exif=exif.tobytes()))
    at = data.index(b"Exif\0\0") + 14  # the number of entries
    data[at : at + 2] = b"\xff\x00"
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(BytesIO(data)).getexif()
    filters = list(warnings.filters)
    ingest = opened(SQUARE, threads=8)
    with ThreadPoolExecutor(4) as pool:
        assert [len(found) for found in pool.map(ingest.encode, [[bytes(data)] * 8] * 8)] == [8] * 8
    assert list(warnings.filters) == filters
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(BytesIO(data)).getexif()


# ---------------------------------------------------------------- folders


def test_a_folder_s_images_come_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp", "d.bmp", "e.jpg", "notes.txt", ".hidden.png", "f.gif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inner.png").touch()
    assert [file.name for file in image.paths(tmp_path)] == ["a.jpeg", "b.PNG", "c.webp", "d.bmp", "e.jpg"]
    assert image.paths(str(tmp_path)) == image.paths(tmp_path)


# ---------------------------------------------------------------- steps


def test_rescale_and_normalize_are_computed_as_transformers_does() -> None:
    from transformers.image_transforms import normalize, rescale

    array = noise(9, 7)
    (pixels,) = opened({"step": "rescale", "factor": 1 / 127.5, "offset": -1}, NORMALIZE).encode([array])
    expected = rescale(array.transpose(2, 0, 1), 1 / 127.5)
    expected -= 1
    expected = normalize(expected, NORMALIZE["mean"], NORMALIZE["std"], input_data_format="channels_first")
    assert np.array_equal(pixels.pixels, expected)


def test_flipped_channels_meet_the_means_in_their_new_order() -> None:
    array = noise(3, 2)
    (before,) = opened({"step": "flip_channels"}, NORMALIZE).encode([array])
    (after,) = opened(NORMALIZE).encode([array[..., ::-1]])
    assert np.array_equal(before.pixels, after.pixels)
    (turned,) = opened(NORMALIZE, {"step": "flip_channels"}).encode([array])
    assert np.array_equal(turned.pixels[::-1], opened(NORMALIZE).encode([array])[0].pixels)


@pytest.mark.parametrize("before", [True, False])
def test_padding_is_zero_before_or_after_normalizing(before: bool) -> None:
    array, pad = noise(5, 4), {"step": "pad", "height": 8, "width": 9, "value": 2}
    (pixels,) = opened(*([pad, NORMALIZE] if before else [NORMALIZE, pad])).encode([array])
    assert pixels.pixels.shape == (3, 8, 9)
    inside = opened(NORMALIZE).encode([array])[0].pixels
    assert np.array_equal(pixels.pixels[:, :5, :4], inside)
    assert np.unique(pixels.pixels[0, 5:]).tolist() == [(2 - 0.5) / 0.5 if before else 2]
    assert pixels.place.offset == (0, 0)


@pytest.mark.parametrize(("place", "top", "left"), [("center", 2, 3), ("end", 0, 0)])
def test_padding_to_a_multiple(place: str, top: int, left: int) -> None:
    array = noise(11, 9)
    step = {"step": "pad_multiple", "multiple": 16, "place": place}
    for steps in ([step, RESCALE], [RESCALE, step]):
        (pixels,) = opened(*steps).encode([array])
        assert pixels.pixels.shape == (3, 16, 16)
        expected = np.pad(array, ((top, 5 - top), (left, 7 - left), (0, 0))).transpose(2, 0, 1)
        assert np.array_equal(pixels.pixels, (expected / 255).astype(np.float32))
        assert pixels.place.offset == (top, left)
    assert opened({"step": "pad_multiple", "multiple": 1}).encode([array])[0].pixels.shape == (3, 11, 9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_crop_is_the_same_on_levels_and_on_values(height: int, width: int, high: int, wide: int) -> None:
    from transformers.image_transforms import center_crop

    array, crop = noise(height, width), {"step": "center_crop", "height": high, "width": wide}
    before, after = (opened(*steps).encode([array])[0] for steps in ([crop, RESCALE], [RESCALE, crop]))
    expected = center_crop(array, (high, wide), input_data_format="channels_last")
    assert np.array_equal(before.pixels, (expected.transpose(2, 0, 1) / 255).astype(np.float32))
    assert np.array_equal(before.pixels, after.pixels)
    assert before.place == after.place
    assert opened(crop).size == (high, wide)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"shortest_edge": 50}, (50, 79)),
        ({"shortest_edge": 50, "longest_edge": 60}, (38, 60)),
        ({"shortest_edge": 61, "longest_edge": 200}, (61, 97)),
        ({"longest_edge": 96}, (60, 96)),
        ({"max_height": 122, "max_width": 200}, (122, 194)),
        ({"near_height": 50, "near_width": 100}, (63, 100)),
        ({"height": 3, "width": 4}, (3, 4)),
    ],
)
def test_every_form_of_size(size: dict[str, int], expected: tuple[int, int]) -> None:
    (pixels,) = opened({"step": "resize", "size": size, "resample": 2}).encode([noise(61, 97)])
    assert pixels.pixels.shape[1:] == expected
    assert pixels.place.scale == (expected[0] / 61, expected[1] / 97)
    assert opened({"step": "resize", "size": size, "resample": 2}).size == (expected if "height" in size else None)


def test_multiples_are_rounded_down_or_to_the_nearest() -> None:
    step = {**SQUARE, "size": {"near_height": 70, "near_width": 70}, "multiple": 14}
    assert opened(step).encode([noise(77, 91)])[0].pixels.shape == (3, 70, 84)
    assert opened({**step, "rounding": "down"}).encode([noise(77, 91)])[0].pixels.shape == (3, 70, 70)
    assert opened(SQUARE, {**step, "size": {"shortest_edge": 20}}).size == (14, 14)


def test_the_place_follows_every_step() -> None:
    """A dot in the image is where the place says it is."""
    array = np.zeros((40, 60, 3), np.uint8)
    array[20:24, 40:44] = 255
    steps = [
        {"step": "center_crop", "height": 40, "width": 50},
        {"step": "resize", "size": {"height": 80, "width": 150}, "resample": 0},
        {"step": "pad_multiple", "multiple": 64, "place": "center"},
    ]
    (pixels,) = opened(*steps).encode([array])
    (top, left), (down, right) = pixels.place.offset, pixels.place.scale
    rows, columns = np.nonzero(pixels.pixels[0])
    assert (rows.min(), rows.max() + 1) == (20 * down + top, 24 * down + top)
    assert (columns.min(), columns.max() + 1) == (40 * right + left, 44 * right + left)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (100, 64), (64, 96), (301, 200), (1, 9), (500, 1)])
def test_a_letterbox_keeps_the_ratio_in_the_middle_of_gray(height: int, width: int) -> None:
    step = {"step": "letterbox", "height": 64, "width": 96, "value": 114}
    array = noise(height, width) // 2  # no level is 255
    (pixels,) = opened(step).encode([array + 128])
    ratio = min(64 / height, 96 / width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    top, left = round((64 - new_height) / 2 - 0.1), round((96 - new_width) / 2 - 0.1)
    inside = pixels.pixels[:, top : top + new_height, left : left + new_width]
    assert pixels.place.offset == (top, left)
    assert inside.min() >= 128
    assert (pixels.pixels == 114).sum() == 3 * (64 * 96 - new_height * new_width)
    assert opened(step).size == (64, 96)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_bilinear_resizing_takes_two_neighbours_a_side(height: int, width: int, high: int, wide: int) -> None:
    """Torch's has the same positions, and floats for weights: the levels differ by 1 at most."""
    import torch

    array = noise(height, width)
    given = torch.from_numpy(array.transpose(2, 0, 1)[None].astype(np.float32))
    expected = torch.nn.functional.interpolate(given, (high, wide), mode="bilinear", align_corners=False)
    found = bilinear(array, high, wide)
    assert np.abs(found.transpose(2, 0, 1) - expected[0].numpy()).max() <= 1


def test_without_pillow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = opened()
    monkeypatch.setitem(sys.modules, "PIL", None)
    for call in (lambda: opened(), lambda: ingest.encode([noise(2, 2)])):
        with pytest.raises(DeviceError) as caught:
            call()
        assert "edgekit-onnx[vision]" in caught.value.hint
