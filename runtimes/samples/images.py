"""Sample images to judge a bundle on when the user gives none: drawn by formula, in many sizes and kinds.

A sample is an image's file, PNG or JPEG, as bytes. Real photos of a model's own field judge it better:
`--calibration FOLDER`; they are shrunk to EDGE first.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, UsageError

from ..ingest import _image_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Levels = NDArray[np.uint8]

# (height, width): flat, upright, tiny.
SIZES = ((96, 128), (128, 96), (64, 64), (160, 112), (48, 144), (33, 47), (224, 224), (17, 23))
MOST = 64  # of a user's pictures
EDGE, QUALITY = 256, 90  # of those: the longest edge in pixels, and the JPEG's quality


def drawn() -> list[bytes]:
    """Our own pictures, the same everywhere: four of each size, the kinds in turns."""
    random = np.random.default_rng(0)
    kinds = (_waves, _discs, _stripes, _clouds)
    return [
        _encoded(_image_file.pillow().fromarray(kinds[(number + turn) % len(kinds)](height, width, random)), "PNG")
        for turn in range(len(kinds))
        for number, (height, width) in enumerate(SIZES)
    ]


def read(path: Path, option: str = "--calibration") -> list[bytes]:
    """The user's pictures: a folder of images, or one image. `option`: that it came with, for messages.

    Raises UsageError where there is none, or one cannot be read.
    """
    try:
        files = _image_file.paths(path) if path.is_dir() else [path]
        pictures = [_image_file.picture(file, file.name) for file in files[:MOST]]
    except InputError as error:
        raise UsageError(f"{option} {path}: {error.message}", hint=error.hint) from error
    for picture in pictures:
        picture.thumbnail((EDGE, EDGE))
    return [_encoded(picture, "JPEG", quality=QUALITY) for picture in pictures]


def _waves(height: int, width: int, random: np.random.Generator) -> Levels:
    """Smooth colours: each channel a sum of sines."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    turns, phases = random.uniform(1, 9, (3, 2)), random.uniform(0, 6.28, 3)
    planes = [np.sin(a * 6.28 * x + b * 6.28 * y + phase) for (a, b), phase in zip(turns, phases)]
    return _levels(np.stack(planes, -1))


def _discs(height: int, width: int, random: np.random.Generator) -> Levels:
    """Things before a background: discs and boxes of one colour each."""
    y, x = np.mgrid[:height, :width]
    canvas = np.tile(random.uniform(-1, 1, 3), (height, width, 1))
    for number in range(6):
        top, left = random.uniform(0, height), random.uniform(0, width)
        size = random.uniform(0.1, 0.4) * min(height, width)
        inside = np.hypot(y - top, x - left) < size if number % 2 else (abs(y - top) < size) & (abs(x - left) < size)
        canvas[inside] = random.uniform(-1, 1, 3)
    return _levels(canvas)


def _stripes(height: int, width: int, random: np.random.Generator) -> Levels:
    """Hard edges: stripes and squares, light on dark."""
    y, x = np.mgrid[:height, :width]
    period = int(random.integers(2, 12))
    board = ((x // period + y // period * random.integers(0, 2)) % 2).astype(float) * 2 - 1
    return _levels(board[..., None] * random.uniform(0.3, 1, 3))


def _clouds(height: int, width: int, random: np.random.Generator) -> Levels:
    """Texture as photos have it: noise whose power falls with the square of the frequency."""
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    planes = []
    for _ in range(3):
        spectrum = np.fft.fft2(random.normal(size=(height, width))) / np.maximum(distance, 1 / max(height, width))
        plane = np.fft.ifft2(spectrum).real
        planes.append((plane - plane.mean()) / (2.5 * plane.std()))
    return _levels(np.stack(planes, -1))


def _levels(canvas: NDArray[np.floating[Any]]) -> Levels:
    """-1 to 1 as levels, uint8 (h, w, 3)."""
    levels: Levels = np.clip(np.rint((canvas + 1) * 127.5), 0, 255).astype(np.uint8)
    return levels


def _encoded(picture: Any, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
