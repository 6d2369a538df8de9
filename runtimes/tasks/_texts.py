"""Base class of tasks that run a text model once per batch: tokens in, the outputs of the head out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit.model import Model

from .. import arguments
from ..ingest import text
from ..loops import once
from ..samples import texts as samples

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle

    from ..ingest.text import Encoding

PART = 256  # texts whose tokens are held at the same time


class TextModel(Model):
    """Base of the tasks that read texts in one run."""

    INPUT = "text"
    SETTINGS = (text.Settings,)
    OFFSETS: ClassVar[bool] = False  # whether the head needs each token's place in the text
    MAX_TOKENS: ClassVar[int | None] = None  # in a batch, where the head's numbers are large

    def prepare(self) -> None:
        self._settings: dict[str, Any] = self.head.open(self.bundle.folder, self._with_width())
        self._ingest = text.open(self.bundle.folder, {"inputs": list(self.graph().fed), **self.settings})

    @classmethod
    def samples(cls, bundle: Bundle, file: Path | None = None, option: str = "--calibration") -> list[Any]:
        lines = samples.read(file, option) if file else list(samples.TEXTS)
        return cls.form(lines, bundle.settings)

    @classmethod
    def form(cls, lines: Sequence[str], settings: Mapping[str, Any]) -> list[Any]:
        """Texts as this task takes them: pairs, texts with a mask."""
        return list(lines)

    @staticmethod
    def item(sample: Any) -> Any:
        """A pair of texts is a tuple, which JSON does not have."""
        return tuple(sample) if isinstance(sample, list) else sample

    def encode(self, samples: Sequence[Any]) -> list[Array]:
        """The token ids of each text, int64 (tokens,)."""
        items = [self.item(sample) for sample in samples]
        return [np.asarray(one.ids, np.int64) for part in self._parts(items, truncate=True) for one in part]

    def outputs(self, samples: Sequence[Any]) -> list[Array]:
        return self.numbers([self.item(sample) for sample in samples], truncate=True)

    def answer(self, items: Sequence[Any]) -> Any:
        own: Callable[..., Any] = getattr(self, self.METHODS[0])
        return own(items[0] if len(items) == 1 else list(items), truncate=True)

    def numbers(self, items: Sequence[Any], *, truncate: bool = False) -> list[Array]:
        """What the head computes before it becomes an answer, an array a text."""
        return [array for part in self._parts(items, truncate=truncate) for array in self._gather(part)]

    def _parts(self, items: Sequence[Any], *, truncate: bool, prompt: str | None = None) -> Iterator[list[Encoding]]:
        """The texts as tokens, PART at a time; one part for no texts."""
        for first in range(0, max(1, len(items)), PART):
            part = items[first : first + PART]
            yield self._ingest.encode(part, truncate=truncate, prompt=prompt, offsets=self.OFFSETS, first=first)

    def _gather(self, encodings: list[Encoding], **options: Any) -> list[Array]:
        session = self.session_of()
        batches = once.batches(session, self._ingest, encodings, max_tokens=self.MAX_TOKENS)
        return once.gather(session, batches, self.head, self._settings, len(encodings), **options)

    def _answers(self, texts: str | Sequence[Any], truncate: bool, **options: Any) -> Any:
        """The head's answer to one text, or a list of them."""
        answers: list[Any] = []
        alone, items = arguments.items(texts, "texts")
        for part in self._parts(items, truncate=truncate):
            answers += self.head.answers(self._gather(part), part, self._settings, **options)
        return answers[0] if alone else answers
