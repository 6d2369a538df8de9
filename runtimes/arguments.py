"""Check what a caller gives to a task's methods, once for all tasks: a wrong type is an InputError that names it.

Knows the kinds of values, not what they are for.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from edgekit.errors import InputError


def items(value: Any, name: str) -> tuple[bool, list[Any]]:
    """Whether `value` is one text, and the texts as a list. Raises InputError for neither a text nor a list.

    An array or a column of a table is a list; an iterator is not, since a call needs to know how many there are.
    """
    if isinstance(value, str):
        return True, [value]
    if isinstance(value, bytes | Mapping) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        hint = "make a list of it: list(…)" if hasattr(value, "__iter__") else "give a str, or a list of them"
        raise InputError(f"{name} is {_kind(value)}, not a text or a list of texts", hint=hint)
    return False, list(value)


def text(value: Any, name: str) -> str:
    """A text. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {_kind(value)}, not a text", hint="give a str")
    return value


def count(value: Any, name: str, hint: str) -> int | None:
    """A whole number from 1, or None. Raises InputError for another number, and for what is none."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}", hint=hint)
    return number


def _kind(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"
