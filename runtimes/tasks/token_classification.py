"""Token classification: labelled spans of a text, such as names or parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, overload

from ..heads import spans
from ._texts import TextModel

if TYPE_CHECKING:
    from edgekit.results import Span

ALIASES = ("ner", "named-entity-recognition", "pos")


class TokenClassification(TextModel):
    """Texts to labelled spans."""

    METHODS = ("tag",)
    OFFSETS = True  # without them spans have no place in the text
    head: ClassVar[ModuleType] = spans

    @overload
    def tag(self, texts: str, *, truncate: bool = False) -> list[Span]: ...  # type: ignore[overload-overlap]
    @overload
    def tag(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[Span]]: ...
    def tag(self, texts: str | Sequence[str], *, truncate: bool = False) -> list[Span] | list[list[Span]]:
        """Tag texts: labelled spans with their positions; a list for one text, a list of lists for several.

        `truncate` cuts what is too long, which is an InputError otherwise.
        """
        found: list[Span] | list[list[Span]] = self._answers(texts, truncate)
        return found
