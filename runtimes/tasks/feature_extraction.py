"""Feature extraction: one vector per text, for search, clustering and similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import arguments
from ..heads import classes, embedding
from ._texts import TextModel

if TYPE_CHECKING:
    from edgekit.core import Floats
    from edgekit.results import Ranked

ALIASES = ("sentence-similarity", "sentence-embedding", "embedding", "embeddings")


class FeatureExtraction(TextModel):
    """Texts to vectors: `embed`, and what is made of vectors."""

    METHODS = ("embed", "similarity", "rerank")
    head: ClassVar[ModuleType] = embedding

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        prompt: str | None = None,
        truncate: bool = False,
    ) -> Floats:
        """Embed texts: float32 (n, d), one vector per text, of unit length if the model says so.

        `dimensions` keeps the first so many numbers (Matryoshka, arXiv:2205.13147) and makes the length 1 again.
        `prompt` names one of the model's prompts. `truncate` cuts what is too long, which is an InputError otherwise.
        """
        _, items = arguments.items(texts, "texts")
        settings = self._settings if dimensions is None else {**self._settings, "dimensions": dimensions}
        parts = (
            embedding.answers(self._gather(part, dimensions=dimensions), part, settings)
            for part in self._parts(items, truncate=truncate, prompt=prompt)
        )
        return joined(parts, len(items))

    def similarity(
        self, a: str | Sequence[str], b: str | Sequence[str], *, prompt: str | None = None, truncate: bool = False
    ) -> Floats:
        """Similarity of each text in `a` with each in `b`: float32 (n, m), by the model's measure (cosine, dot)."""
        left = self.embed(a, prompt=prompt, truncate=truncate)
        right = self.embed(b, prompt=prompt, truncate=truncate)
        return embedding.similarity(left, right, self._settings)

    def rerank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, truncate: bool = False
    ) -> list[Ranked]:
        """Sort documents by the similarity of their vectors with the query's: positions and scores, best first."""
        _, items = arguments.items(documents, "documents")
        scores = self.similarity(arguments.text(query, "query"), items, truncate=truncate)[0]
        return classes.ranked(scores, top_k)


def joined(parts: Iterator[Floats], rows: int) -> Floats:
    """The parts under one another, as (rows, d): each is let go as soon as it is in its place."""
    first = next(parts)
    if len(first) == rows:
        return first
    vectors = np.empty((rows, *first.shape[1:]), first.dtype)
    vectors[: len(first)] = first
    end = len(first)
    for part in parts:
        vectors[end : end + len(part)] = part
        end += len(part)
    return vectors
