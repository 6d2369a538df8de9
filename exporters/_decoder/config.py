"""Typed access to a language model's config.json: a value of the wrong type is a BundleError.

Knows transformers' way with defaults and with an architecture's own words for common keys; knows no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.errors import BundleError

AGAIN = "download or save the model again"
LARGEST = 2**31 - 1  # of any axis: what ONNX readers agree on
LARGEST_NUMBER = 1e30  # that a weight may be multiplied by, and still be a float32


@dataclass(frozen=True)
class Config:
    """`values` as the file has them, `defaults` as transformers takes them for keys that the file lacks.

    `words`: common key -> the architecture's own (`hidden_size`: `n_embd`), as in transformers' `attribute_map`.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The value, its default, or None. A stated null counts: it is how a config switches a thing off."""
        own = self.words.get(key, key)
        for name in (own, key):
            if name in self.values:
                return self.values[name]
        return self.defaults.get(own, self.defaults.get(key))

    def replaced(self, **values: Any) -> Config:
        """The same config with other values for these keys."""
        return replace(self, values={**self.values, **values})

    def size(self, key: str, most: int = LARGEST, least: int = 1) -> int:
        """A whole number from `least` to `most`."""
        value = self.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def size_or_none(self, key: str) -> int | None:
        return None if self.get(key) is None else self.size(key)

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def above_zero(self, key: str) -> float:
        value = self.number(key)
        if value <= 0:
            raise self._wrong(key, value, "a number above 0")
        return value

    def number_or_none(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """True or false; missing and null are false."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def object(self, key: str) -> dict[str, Any]:
        """Empty where it is missing or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return value or {}

    def items(self, key: str, kind: type, count: int | None = None) -> list[Any] | None:
        """At least `count` values of `kind`, of which the first `count` are returned; None where there is no list.

        With no `count`, all that there are.
        """
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < (count or 0) or not all(type(item) is kind for item in value):
            raise self._wrong(key, value, f"a list of {count}, one for each layer" if count else "a list of numbers")
        return value[:count]

    def numbers(self, key: str, count: int, most: float = LARGEST_NUMBER) -> list[float] | None:
        """So many numbers, from -`most` to `most`; None where there is no list."""
        value = self.get(key)
        if value is None:
            return None
        known = [_number(item, most) for item in value] if isinstance(value, (list, tuple)) else []
        found = [item for item in known if item is not None]
        if len(found) != count or len(known) != count:
            raise self._wrong(key, value, f"a list of {count} numbers")
        return found

    def _wrong(self, key: str, value: Any, wanted: str) -> BundleError:
        name = self.words.get(key, key)
        if value is None:
            return BundleError(f"config.json has no {name!r}", hint=AGAIN, key=name)
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return BundleError(f"config.json: {name} is {shown}, not {wanted}", hint=AGAIN)


def _number(value: Any, most: float) -> float | None:
    """transformers writes infinity as an object; before, it wrote it as Python does."""
    if value == {"__float__": "Infinity"}:
        value = math.inf
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most
    return float(value) if fits else None
