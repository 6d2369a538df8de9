"""Images that cannot be read, refused by number before anything large is decoded, and settings that make no sense."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.errors import BundleError, InputError
from edgekit.runtimes.ingest import image
from edgekit.runtimes.ingest._image_file import FILE_BYTES

KINDS = ("PNG", "JPEG", "WEBP", "BMP")
SQUARE = {"step": "resize", "size": {"height": 8, "width": 8}, "resample": 2}


def opened(*steps: dict[str, Any], threads: int = 1) -> image.Images:
    return image.open(Path(), {"image": list(steps)}, threads=threads)


def file_of(kind: str, height: int = 24, width: int = 20, **options: Any) -> bytes:
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    file = BytesIO()
    picture.save(file, kind, **({} if kind == "BMP" else {"exif": exif.tobytes()}), **options)
    return file.getvalue()


def refused(item: Any, words: str, *steps: dict[str, Any]) -> InputError:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=words) as caught:
        opened(*steps, threads=3).encode([good, good, item, good])
    assert "images[2]" in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.float32), "no pixels"),
        (np.zeros((4, 4, 3), np.float64), "array of float64"),
        (np.zeros((4, 4, 3), np.int64), "array of int64"),
        (np.zeros((4, 4, 3), bool), "array of bool"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \[4, 4, 4\]"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \[3, 4, 4\]"),
        (np.zeros((4, 4, 1), np.uint8), r"shape \[4, 4, 1\]"),
        (np.zeros(4, np.uint8), r"shape \[4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \[1, 4, 4, 3\]"),
        (np.full((4, 4), np.nan, np.float32), "NaN or outside"),
        (np.full((4, 4), np.inf, np.float32), "NaN or outside"),
        (np.full((4, 4), 1.001, np.float32), "NaN or outside"),
        (np.full((4, 4, 3), -0.001, np.float32), "NaN or outside"),
        (np.broadcast_to(np.uint8(0), (8001, 8000, 3)), "64 megapixels"),
    ],
)
def test_arrays_that_are_no_images(array: Any, words: str) -> None:
    refused(array, words)


@pytest.mark.parametrize("item", [7, None, [[1, 2]], {"path": "a.png"}, object()])
def test_what_is_no_image_is_named(item: Any) -> None:
    refused(item, f"is {type(item).__name__}, not an image")


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "No such file")
    refused("http://example.org/a.png", "No such file")
    refused("a\0.png", "null")
    refused(tmp_path, "is a folder")
    refused("", "is a folder")
    refused("/dev/null", "not a regular file")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not a regular file")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    refused(tmp_path / "large.png", "bytes, and")
    refused(bytes(FILE_BYTES + 1), "bytes, and")


def test_a_file_that_becomes_another_one_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a path and its opening, a pipe takes the file's place."""
    file, pipe, stat = tmp_path / "a.png", tmp_path / "pipe", os.stat
    file.write_bytes(file_of("PNG"))
    os.mkfifo(pipe)

    def look(path: Any, *rest: Any, **options: Any) -> os.stat_result:
        status = stat(path, *rest, **options)
        os.replace(pipe, file)
        return status

    monkeypatch.setattr(os, "stat", look)
    with pytest.raises(InputError, match="not a regular file"):
        opened().encode([file])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(file_of("PNG"))
    file.chmod(0)
    refused(file, "Permission denied")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    file = BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(file, kind, **({"save_all": True, "append_images": frames[1:]} if kind == "GIF" else {}))
    refused(file.getvalue(), "is not a PNG, JPEG, WEBP or BMP file")


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"hello world", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_bytes_that_are_no_image(data: bytes) -> None:
    refused(data, "is not a PNG, JPEG, WEBP or BMP file")


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pillow_images_without_levels_are_refused(mode: str) -> None:
    refused(Image.new(mode, (4, 4)), f"mode '{mode}'")


def test_a_pillow_image_without_pixels_is_refused() -> None:
    refused(Image.new("RGB", (0, 4)), "no pixels")
    refused(Image.new("1", (9000, 9000)), "64 megapixels")


@pytest.mark.parametrize("kind", KINDS)
def test_files_cut_short_are_refused(kind: str, tmp_path: Path) -> None:
    data = file_of(kind, 64, 64)
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "a", "damaged")
    refused(data[: len(data) // 2], "damaged")
    for size in range(0, len(data) // 2, 97):
        with pytest.raises(InputError):
            opened().encode([data[:size]])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_changed_bytes_give_an_image_or_an_error_of_ours(
    kind: str, changes: list[tuple[int, int]], at_the_beginning: bool
) -> None:
    data = bytearray(file_of(kind))
    for at, value in changes:
        data[at % (min(120, len(data)) if at_the_beginning else len(data))] = value
    for item in (lambda: bytes(data), lambda: Image.open(BytesIO(data), formats=KINDS)):
        try:
            given_item = item()
        except Exception:  # Pillow itself, when the caller opens the file: not ours to answer for
            continue
        try:
            (pixels,) = opened(SQUARE).encode([given_item])
        except InputError:
            continue
        assert pixels.pixels.shape == (3, 8, 8)


def png(width: int, height: int) -> bytes:
    """A header that claims a size, and hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(file_of("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = bytearray(file_of("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    data = bytearray(file_of("WEBP", lossless=True))  # EXIF makes it an extended file, with the canvas in VP8X
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28
    data[at : at + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(data)


# Below Pillow's own limits, where it warns, and where it raises
@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (12000, 12000), (16000, 16000)])
@pytest.mark.parametrize("make", [png, jpeg, bmp, webp])
def test_a_claim_of_too_many_pixels_is_refused_by_the_header(
    make: Callable[[int, int], bytes], width: int, height: int
) -> None:
    error = refused(make(width, height), "64 megapixels")
    assert "damaged" not in error.message


def test_64_megapixels_are_decoded() -> None:
    refused(png(8000, 8000), "damaged")  # the pixels are missing, and were looked for


def test_an_image_whose_side_would_become_too_long() -> None:
    step = {"step": "resize", "size": {"shortest_edge": 224}, "resample": 2}
    refused(np.zeros((1, 2000, 3), np.uint8), "would be resized to 448000 x 224", step)
    within = {"step": "resize", "size": {"shortest_edge": 20, "longest_edge": 40}, "resample": 2, "multiple": 16}
    refused(np.zeros((1, 300, 3), np.uint8), "would be resized to", within)


def test_a_side_may_become_one_pixel() -> None:
    step = {"step": "resize", "size": {"height": 1, "width": 1}, "resample": 2}
    assert opened(step).encode([np.zeros((9, 7, 3), np.uint8)])[0].pixels.shape[-2:] == (1, 1)


def test_an_image_that_does_not_fit_its_frame() -> None:
    pad = {"step": "pad", "height": 10, "width": 10}
    refused(np.zeros((11, 4, 3), np.uint8), "4 x 11 does not fit", pad)
    refused(np.zeros((4, 11, 3), np.uint8), "does not fit", {"step": "rescale", "factor": 1}, pad)
    with pytest.raises(InputError, match="does not fit"):
        opened({"step": "pad_multiple", "multiple": 9000}).encode([np.zeros((4, 4), np.uint8)])


def test_the_first_of_several_is_named() -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"images\[11\]"):
        opened(threads=4).encode([good, "no.png", good, b"", 5], first=10)


@pytest.mark.parametrize(
    ("data", "words", "steps"),
    [
        (b"no picture", "is not a PNG", ()),
        (file_of("PNG")[:200], "cannot be decoded", ()),
        (png(60_000, 60_000), "megapixels", ()),
        (file_of("PNG", 4, 11), "does not fit", ({"step": "pad", "height": 8, "width": 8},)),
    ],
)
def test_whatever_is_wrong_with_a_file_its_name_is_said(
    tmp_path: Path, data: bytes, words: str, steps: tuple[dict[str, Any], ...]
) -> None:
    (tmp_path / "good.png").write_bytes(file_of("PNG", 4, 4))
    bad = tmp_path / "bad.png"
    bad.write_bytes(data)
    for item in (bad, str(bad)):
        with pytest.raises(InputError, match=words) as caught:
            opened(*steps).encode([tmp_path / "good.png", item])
        assert f"images[1]: {str(bad)!r}" in caught.value.message


def test_a_data_url_is_not_repeated_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        opened().encode(["data:image/png;base64,AAAA"])
    assert caught.value.message.startswith("images[0] is not a PNG")


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no images"):
        image.paths(tmp_path)
    (tmp_path / "a.gif").touch()
    with pytest.raises(InputError, match="has no images"):
        image.paths(tmp_path)
    for place, words in ((tmp_path / "a.gif", "Not a dir"), (tmp_path / "none", "No such file"), ("a\0", "null")):
        with pytest.raises(InputError, match=f"cannot be listed: .*{words}"):
            image.paths(place)


RESCALE = {"step": "rescale", "factor": 1 / 255}
NORMALIZE = {"step": "normalize", "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0]}
BAD_SETTINGS: list[tuple[Any, str]] = [
    (None, "not a list"),
    ({}, "not a list"),
    ([RESCALE] * 33, "not a list of at most 32"),
    (["resize"], "step 0 is None"),
    ([{"step": ["resize"]}], "step 0 is"),
    ([RESCALE, {"step": "sharpen"}], "step 1 is 'sharpen'"),
    ([{**RESCALE, "bias": 1}], r"step 0 \(rescale\) has an unknown key 'bias'"),
    ([{"step": "rescale"}], "no key 'factor'"),
    ([{"step": "rescale", "factor": "1"}], "factor '1'"),
    ([{"step": "rescale", "factor": float("nan")}], "factor nan"),
    ([{"step": "rescale", "factor": 1e300}], "float32 cannot hold"),
    ([{**NORMALIZE, "mean": 0.5}], "not three numbers"),
    ([{**NORMALIZE, "std": [1, 1, True]}], "std True"),
    ([{**NORMALIZE, "std": [1, 0, 1]}], "float32 cannot hold"),
    ([{**SQUARE, "size": {"height": 8}}], "known forms"),
    ([{**SQUARE, "size": 8}], "known forms"),
    ([{**SQUARE, "size": {"shortest_edge": 0}}], "shortest_edge 0"),
    ([{**SQUARE, "size": {"shortest_edge": 1 << 20}}], "1 to 16384"),
    ([{**SQUARE, "resample": 6}], "resample 6"),
    ([{**SQUARE, "resample": True}], "resample True"),
    ([{**SQUARE, "rounding": "up"}], "rounding 'up'"),
    ([{**SQUARE, "multiple": 0}], "multiple 0"),
    ([{"step": "center_crop", "height": 1, "width": 2.0}], "width 2.0"),
    ([{"step": "pad", "height": 1, "width": 2, "value": 256}], "levels are 0 to 255"),
    ([{"step": "pad_multiple", "multiple": 2, "place": "start"}], "place 'start'"),
    ([{"step": "letterbox", "height": 1, "width": 2, "value": -1}], "value -1"),
    ([RESCALE, SQUARE], "levels are gone"),
    ([RESCALE, {"step": "pad", "height": 1, "width": 2}, NORMALIZE], "on float32 already"),
]


@pytest.mark.parametrize(("stated", "words"), BAD_SETTINGS)
def test_settings_that_make_no_sense_are_refused(stated: Any, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        image.open(Path(), {"image": stated})
    assert caught.value.hint


def test_a_bundle_without_image_settings_is_refused() -> None:
    with pytest.raises(BundleError):
        image.open(Path(), {})
