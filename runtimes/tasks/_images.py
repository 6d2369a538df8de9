"""Base class of tasks that run an image model once per batch: pixels in, the outputs of the head out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit.model import Model

from ..ingest import image
from ..loops import once
from ..samples import images as samples

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle

    from ..ingest.image import Pixels

    Image = Any  # a path, a file's bytes, a Pillow image, uint8 (h, w, 3) or (h, w), float32 in 0..1 of these shapes
    Images = Image | Sequence[Image]

BATCH = 16  # images in a run, and decoded at the same time


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Some images as a graph takes them: `pixel_values` float32 (n, 3, h, w). `rows`: their positions in the call."""

    feeds: dict[str, Array]
    rows: tuple[int, ...]


class ImageModel(Model):
    """Base of the tasks that read images in one run.

    An image is a path, a file's bytes, a Pillow image, uint8 (h, w, 3) or (h, w), or float32 in 0..1 of these shapes.
    EXIF orientation is obeyed, alpha is laid on white.
    """

    INPUT = "image"
    SETTINGS = (image.Settings,)
    READER: ClassVar[int] = 3_500_000  # Pillow

    def prepare(self) -> None:
        self._settings: dict[str, Any] = self.head.open(self.bundle.folder, self._with_width())
        self._ingest = image.open(self.bundle.folder, self.settings, threads=self.threads)

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        """Pictures as the bytes of their files."""
        return samples.read(file, option) if file else samples.drawn()

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """A digest of each image's pixels, uint8 (32,)."""
        pixels = (one for part in self._parts(samples) for one in part)
        return [np.frombuffer(bytes.fromhex(one.digest), np.uint8) for one in pixels]

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        return self.numbers(samples)

    def numbers(self, images: Sequence[Image]) -> list[Array]:
        """What the head computes before it becomes an answer, an array an image."""
        return [array for part in self._parts(images) for array in self._gather(part)]

    def _parts(self, images: Sequence[Image]) -> Iterator[list[Pixels]]:
        """The images as pixels, BATCH at a time."""
        for first in range(0, len(images), BATCH):
            yield self._ingest.encode(images[first : first + BATCH], first=first)

    def _gather(self, pixels: Sequence[Pixels]) -> list[Array]:
        feeds = {"pixel_values": np.stack([one.pixels for one in pixels])}
        batches = [ImageBatch(feeds, tuple(range(len(pixels))))]
        return once.gather(self.session_of(), batches, self.head, self._settings, len(pixels))

    def _alone(self, images: Images) -> tuple[bool, Sequence[Image]]:
        """Whether that is one image, and the images as a list."""
        alone = self._ingest.alone(images)
        return alone, [images] if alone else list(images)
