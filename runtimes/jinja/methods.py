"""The methods of texts, lists and dicts that a template may call: those of Python that change nothing."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from .faults import LimitFault, RenderFault
from .values import CELL, Budget, Dict, List, Tuple, Undefined, size_of

Method = Callable[..., Any]
WIDTH = re.compile(r"[0-9]{4,}")  # of a field in a format: nobody pads to 1000 places
CONVERSION = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*[a-zA-Z%]")


def _same(name: str) -> Method:
    """A method of str whose result is about as long as the text, or a number."""

    def call(budget: Budget, text: str, *arguments: Any, **named: Any) -> Any:
        budget.spend(size_of(text) + sum(map(size_of, arguments)))
        return getattr(text, name)(*arguments, **named)

    return call


def _parts(name: str) -> Method:
    """A method of str that returns parts of the text."""

    def call(budget: Budget, text: str, *arguments: Any, **named: Any) -> Any:
        budget.spend(size_of(text) + sum(map(size_of, arguments)))
        budget.spend(CELL * _count(text, name, arguments, named))
        parts = getattr(text, name)(*arguments, **named)
        return budget.new_tuple(parts) if isinstance(parts, tuple) else budget.new_list(parts)

    return call


def _count(text: str, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """How many parts there are at most, without making them."""
    separator = arguments[0] if arguments else named.get("sep")
    if "partition" in name:
        return 3
    return text.count(separator) + 1 if isinstance(separator, str) and separator else len(text) // 2 + 1


def _padded(name: str) -> Method:
    """A method of str that is given a width."""

    def call(budget: Budget, text: str, width: int = 8, *arguments: Any) -> str:
        budget.spend(size_of(text) + max(width, 0) * (1 + text.count("\t") if name == "expandtabs" else 1))
        result: str = getattr(text, name)(width, *arguments)
        return result

    return call


def joined(budget: Budget, separator: str, items: Any) -> str:
    if isinstance(items, Undefined):
        return ""
    parts = list(items)
    budget.spend(sum(map(size_of, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def replaced(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    times = text.count(old) if count < 0 else min(count, text.count(old))
    budget.spend(size_of(text) + times * len(new))
    return text.replace(old, new, count)


def formatted(budget: Budget, layout: str, values: Any) -> str:
    """`layout % values`."""
    if WIDTH.search(layout) or "*" in layout:
        raise LimitFault("a format has a field that is too wide")
    fields = len(CONVERSION.findall(layout))
    budget.spend(size_of(layout) + fields * (size_of(values) + 1000))
    return budget.unescaped(layout % (tuple(values) if isinstance(values, Tuple) else values))


def _format(budget: Budget, layout: str, *positional: Any, **named: Any) -> str:
    """`layout.format(...)`, whose fields name arguments and not what is in them."""
    values: dict[Any, Any] = {**dict(enumerate(positional)), **named}
    texts, number = list[str](), 0
    for literal, field, spec, conversion in string.Formatter().parse(layout):
        texts.append(literal)
        if field is None:
            continue
        if "." in field or "[" in field or "{" in (spec or ""):
            raise RenderFault("a field of a format is not the name of an argument")
        if WIDTH.search(spec or ""):
            raise LimitFault("a format has a field that is too wide")
        key: int | str = number if field == "" else int(field) if field.isdecimal() else field
        number += field == ""
        budget.spend(size_of(values[key]) + 1000)
        value = repr(values[key]) if conversion in ("r", "a") else str(values[key]) if conversion else values[key]
        texts.append(format(str(value) if isinstance(value, List | Tuple | Dict) else value, spec or ""))
    return budget.unescaped(joined(budget, "", texts))


SAME = (
    "strip", "lstrip", "rstrip", "upper", "lower", "title", "capitalize", "casefold", "swapcase", "removeprefix",
    "removesuffix", "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
    "isupper",
)  # fmt: skip
CHANGES_LIST = ("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse")
CHANGES_DICT = ("pop", "popitem", "setdefault", "update", "clear")
TEXT: dict[str, Method] = {
    **{name: _same(name) for name in SAME},
    **{name: _parts(name) for name in ("split", "rsplit", "splitlines", "partition", "rpartition")},
    **{name: _padded(name) for name in ("center", "ljust", "rjust", "zfill", "expandtabs")},
    "join": joined,
    "replace": replaced,
    "format": _format,
}


def _unchanging(name: str) -> Method:
    """The refusal of a method that changes its value."""

    def call(budget: Budget, value: Any, *arguments: Any, **named: Any) -> Any:
        raise RenderFault(f"{name}() is not allowed: values do not change")

    return call


def _get(budget: Budget, value: Dict, key: Any, default: Any = None) -> Any:
    return value.get(key, default)


def _count_item(budget: Budget, value: Any, item: Any) -> int:
    budget.spend(size_of(value) + size_of(item))
    return int(value.count(item))


def _index(budget: Budget, value: Any, *arguments: Any) -> int:
    budget.spend(size_of(value) + sum(map(size_of, arguments)))
    return int(value.index(*arguments))


def items(budget: Budget, value: Dict) -> List:
    return budget.new_list([budget.new_tuple(pair) for pair in value.items()])


METHODS: dict[type, dict[str, Method]] = {
    str: TEXT,
    List: {
        "count": _count_item,
        "index": _index,
        "copy": lambda budget, value: budget.new_list(value),
        **{name: _unchanging(name) for name in CHANGES_LIST},
    },
    Tuple: {"count": _count_item, "index": _index},
    Dict: {
        "get": _get,
        "items": items,
        "keys": lambda budget, value: budget.new_list(value),
        "values": lambda budget, value: budget.new_list(value.values()),
        "copy": lambda budget, value: budget.new_dict(value),
        **{name: _unchanging(name) for name in CHANGES_DICT},
    },
}
