"""Images to the input of a vision model: float32 (3, height, width), by the steps in the bundle.

Takes paths, bytes of files, Pillow images and arrays. Knows no model and no class of transformers: the exporter wrote
every size, filter and number into the steps. `image_settings` lists the steps, `image_file` says what can be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.machine import system_calls

from .. import settings as types
from . import _image_file, _image_settings
from ._image_file import paths as paths
from ._image_steps import Place, Steps

if TYPE_CHECKING:
    from edgekit.core import Floats


class Settings(types.Settings):
    """What the bundle says of the images that the model reads."""

    image: list[dict[str, Any]]  # steps in the order in which they run

    def __post_init__(self) -> None:
        _image_settings.parse(self.image)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One image as the graph takes it: float32 (3, h, w)."""

    pixels: Floats
    height: int  # of the image itself, upright
    width: int
    place: Place  # where the image lies in the pixels
    position: int = 0  # in the call, for messages

    @property
    def digest(self) -> str:
        """SHA-256 of shape and values: tells whether an image is read as it was when a bundle was made."""
        shape = ",".join(map(str, self.pixels.shape))
        return hashlib.sha256(shape.encode() + self.pixels.astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Images:
    """How a bundle's model wants its images. Threads may share it.

    `threads`: how many images are read at once; None: as many as this process has cores.
    """

    steps: Steps
    threads: int | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all pixels, or None where it depends on the image."""
        return self.steps.size

    def alone(self, items: Any) -> bool:
        """Whether that is one item, and not several: a list, a tuple, an iterator, or an array (n, h, w, 3)."""
        if isinstance(items, np.ndarray):
            return items.ndim != 4
        return not isinstance(items, (list, tuple, Iterator))

    def encode(self, items: Sequence[Any], *, first: int = 0) -> list[Pixels]:
        """The items as the graph takes them, in their order. `first`: the number of the first one, for messages.

        Raises InputError naming the first item that cannot be read.
        """
        numbered = list(enumerate(items, first))
        threads = min(len(numbered), self.threads or system_calls.cores())
        if threads <= 1:
            return [self._one(number, item) for number, item in numbered]
        with ThreadPoolExecutor(threads, "edgekit-image") as pool:
            jobs = [pool.submit(self._one, number, item) for number, item in numbered]
            try:
                return [job.result() for job in jobs]
            finally:
                for job in jobs:
                    job.cancel()

    def _one(self, number: int, item: Any) -> Pixels:
        name = _image_file.name_of(item, number)
        picture = _image_file.picture(item, name)
        pixels, place = self.steps.run(picture, name)
        return Pixels(pixels, picture.height, picture.width, place, number)


def open(folder: Path, settings: Mapping[str, Any], *, threads: int | None = None) -> Images:
    """The steps of the bundle in `folder`.

    Raises BundleError if they make no sense, DeviceError where Pillow is not installed.
    """
    steps = _image_settings.parse(settings.get("image"))
    _image_file.pillow()
    return Images(steps, threads)
