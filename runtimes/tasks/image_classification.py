"""Image classification: labels with scores for each image."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from ..heads import classes
from ._images import ImageModel

if TYPE_CHECKING:
    from edgekit.results import Label

    from ._images import Images

ALIASES = ("image-class",)


class ImageClassification(ImageModel):
    """Images to labels with scores."""

    METHODS = ("classify",)
    head: ClassVar[ModuleType] = classes

    def classify(self, images: Images, *, top_k: int | None = 5) -> list[Label] | list[list[Label]] | Any:
        """Classify images: labels with scores, best first; a list for one image, a list of lists for several.

        `top_k`: how many labels; None gives all. Scores are a softmax over the labels, or a sigmoid of each where the
        problem is multi-label. Raises InputError for what is not an image, naming its place in the list.
        """
        alone, items = self._alone(images)
        answers = classes.answers(self.numbers(items), items, self._settings, top_k=top_k)
        return answers[0] if alone else answers
