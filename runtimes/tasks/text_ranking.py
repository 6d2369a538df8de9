"""Text ranking: sort documents by relevance to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from .. import arguments
from ..heads import classes
from ._texts import TextModel

if TYPE_CHECKING:
    from edgekit.results import Ranked

ALIASES = ("rerank", "reranking", "cross-encoder")


class TextRanking(TextModel):
    """A cross-encoder: it reads query and document together."""

    INPUT = "query"
    METHODS = ("rerank",)
    head: ClassVar[ModuleType] = classes

    def rerank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, truncate: bool = False
    ) -> list[Ranked]:
        """Sort documents by relevance to a query: positions and scores, best first; all, or the `top_k` best.

        `truncate` cuts what is too long, which is an InputError otherwise.
        """
        query, (_, items) = arguments.text(query, "query"), arguments.items(documents, "documents")
        pairs = [(query, document) for document in items]
        return classes.rerank(self.numbers(pairs, truncate=truncate), self._settings, top_k=top_k)

    @classmethod
    def form(cls, lines: Sequence[str], settings: Mapping[str, Any]) -> list[Any]:
        """Each text as the document of the one before."""
        return [[lines[number - 1], line] for number, line in enumerate(lines)]

    def answer(self, items: Sequence[Any]) -> Any:
        """The first pair's query with every pair's document."""
        return self.rerank(items[0][0], [document for _, document in items], truncate=True)
