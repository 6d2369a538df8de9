"""Fill mask: the likeliest words for the mask in a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, overload

from ..heads import fill
from ._texts import TextModel

if TYPE_CHECKING:
    from edgekit.results import Token

ALIASES = ("masked-lm",)


class FillMask(TextModel):
    """Texts with masks to the words that fit there."""

    METHODS = ("fill",)
    MAX_TOKENS = 512  # every token has logits over the vocabulary: 64 MB for BERT, 0.5 GB for XLM-R
    head: ClassVar[ModuleType] = fill

    @overload
    def fill(self, texts: str, *, top_k: int = 5, truncate: bool = False) -> list[list[Token]]: ...  # type: ignore[overload-overlap]
    @overload
    def fill(self, texts: Sequence[str], *, top_k: int = 5, truncate: bool = False) -> list[list[list[Token]]]: ...
    def fill(
        self, texts: str | Sequence[str], *, top_k: int = 5, truncate: bool = False
    ) -> list[list[Token]] | list[list[list[Token]]]:
        """Fill masks: the `top_k` best tokens for each mask, a list per mask; for a list of texts a list of these.

        `truncate` cuts what is too long, which is an InputError otherwise.
        """
        tokens: list[list[Token]] | list[list[list[Token]]] = self._answers(texts, truncate, top_k=top_k)
        return tokens

    @classmethod
    def form(cls, lines: Sequence[str], settings: Mapping[str, Any]) -> list[Any]:
        """Each text with the mask in place of a word in its middle."""
        return [_masked(line, settings["mask_token"]) for line in lines]


def _masked(text: str, mask: str) -> str:
    if mask in text:
        return text
    words = text.split()
    words[len(words) // 2] = mask
    return " ".join(words)
