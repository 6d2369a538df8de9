"""Text classification: labels with scores for each text: sentiment, topic, intent."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, overload

from ..heads import classes
from ._texts import TextModel

if TYPE_CHECKING:
    from edgekit.results import Label

ALIASES = ("sequence-classification", "sentiment-analysis")


class TextClassification(TextModel):
    """Texts to labels with scores."""

    METHODS = ("classify",)
    head: ClassVar[ModuleType] = classes

    @overload
    def classify(self, texts: str, *, top_k: int | None = None, truncate: bool = False) -> list[Label]: ...  # type: ignore[overload-overlap]
    @overload
    def classify(
        self, texts: Sequence[str | tuple[str, str]], *, top_k: int | None = None, truncate: bool = False
    ) -> list[list[Label]]: ...
    def classify(
        self, texts: str | Sequence[str | tuple[str, str]], *, top_k: int | None = None, truncate: bool = False
    ) -> list[Label] | list[list[Label]]:
        """Classify texts or pairs: labels with scores, best first; a list for one, a list of lists for several.

        `top_k`: how many labels; None gives all. `truncate` cuts what is too long, which is an InputError otherwise.
        """
        labels: list[Label] | list[list[Label]] = self._answers(texts, truncate, top_k=top_k)
        return labels
