"""Image feature extraction: one vector per image, for search, clustering and similarity."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from ..heads import embedding
from ._images import ImageModel

if TYPE_CHECKING:
    from edgekit.core import Floats

    from ._images import Images

ALIASES = ("image-embedding",)


class ImageFeatureExtraction(ImageModel):
    """Images to vectors."""

    METHODS = ("embed",)
    head: ClassVar[ModuleType] = embedding

    def embed(self, images: Images) -> Floats:
        """Embed images: float32 (n, d), (1, d) for one image; of unit length if the model says so.

        Raises InputError for what is not an image, naming its place in the list.
        """
        _, items = self._alone(images)
        return embedding.answers(self.numbers(items), (), self._settings)
