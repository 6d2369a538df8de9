"""Jinja's filters, except those for HTML and for chance, with transformers' `tojson`.

A filter is a function of (interpreter, value, arguments...). Arguments have jinja2's names, which templates use.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .faults import RenderFault
from .methods import TEXT, formatted, items, joined, replaced
from .operators import attribute, bounded, item
from .values import CELL, Dict, Function, List, Once, Tuple, Undefined, kind, size_of

if TYPE_CHECKING:
    from .interpreter import Interpreter

Filter = Callable[..., Any]


def each(interpreter: Interpreter, value: Any) -> list[Any]:
    """The parts of what can be looped over; reading them is paid for."""
    if not isinstance(value, str | List | Tuple | Dict | Once | Undefined):
        raise RenderFault(f"{kind(value)} has no parts")
    interpreter.budget.spend(CELL * len(value))
    return list(value)


def _of_text(name: str) -> Filter:
    """A filter that is a method of the value's text."""

    def apply(interpreter: Interpreter, value: Any, *arguments: Any) -> Any:
        return TEXT[name](interpreter.budget, interpreter.budget.text(value), *arguments)

    return apply


def _of_number(function: Callable[..., Any]) -> Filter:
    return lambda interpreter, value, *arguments: bounded(function(_defined(value), *arguments))


def _defined(value: Any) -> Any:
    if isinstance(value, Undefined):
        raise value.fail()
    return value


def to_json(
    interpreter: Interpreter,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it: letters stay letters, nothing is escaped for HTML."""
    options = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
    return interpreter.budget.json(value, **options)


def _default(interpreter: Interpreter, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


def _trim(interpreter: Interpreter, value: Any, chars: str | None = None) -> Any:
    return TEXT["strip"](interpreter.budget, interpreter.budget.text(value), chars)


def _length(interpreter: Interpreter, value: Any) -> int:
    if isinstance(value, str | List | Tuple | Dict | Undefined):
        return len(value)
    raise RenderFault(f"{kind(value)} has no length")


def _join(interpreter: Interpreter, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = each(interpreter, value)
    if attribute is not None:
        parts = [path(interpreter, part, attribute) for part in parts]
    return joined(interpreter.budget, interpreter.budget.text(d), [interpreter.budget.text(part) for part in parts])


def path(interpreter: Interpreter, value: Any, names: Any, default: Any = None) -> Any:
    """`value.a.b` for "a.b"; a number is an index."""
    for name in str(names).split(".") if isinstance(names, str) else [names]:
        key = int(name) if isinstance(name, str) and name.isdecimal() else name
        value = item(interpreter.budget, value, key)
        if isinstance(value, Undefined) and default is not None:
            return default
    return value


def _replace(interpreter: Interpreter, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = interpreter.budget.text
    return replaced(interpreter.budget, text(value), text(old), text(new), -1 if count is None else count)


def _indent(
    interpreter: Interpreter, value: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    lines = (value + "\n").splitlines()
    size = len(width) if isinstance(width, str) else max(width, 0)
    interpreter.budget.spend(size_of(value) + (size + CELL) * len(lines))
    indention = width if isinstance(width, str) else " " * width
    rest = "".join("\n" + (indention + line if line or blank else line) for line in lines[1:])
    return (indention if first else "") + lines[0] + rest


def _to_int(interpreter: Interpreter, value: Any, default: int = 0, base: int = 10) -> Any:
    interpreter.budget.spend(size_of(value))
    try:
        return bounded(int(value, base) if isinstance(value, str) else int(value))
    except (TypeError, ValueError):
        try:
            return bounded(int(float(value)))
        except (TypeError, ValueError, OverflowError):
            return default


def _to_float(interpreter: Interpreter, value: Any, default: float = 0.0) -> Any:
    interpreter.budget.spend(size_of(value))
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _round(interpreter: Interpreter, value: Any, precision: int = 0, method: str = "common") -> Any:
    if method not in ("common", "ceil", "floor"):
        raise RenderFault("the method of `round` is common, ceil or floor")
    if abs(precision) > 300:
        raise RenderFault("the precision of `round` is too large")
    if method == "common":
        return round(_defined(value), precision)
    return getattr(math, method)(_defined(value) * 10**precision) / 10**precision


def _first(interpreter: Interpreter, value: Any) -> Any:
    return next(iter(each(interpreter, value)), Undefined("the first of nothing"))


def _last(interpreter: Interpreter, value: Any) -> Any:
    return next(iter(reversed(each(interpreter, value))), Undefined("the last of nothing"))


def _list(interpreter: Interpreter, value: Any) -> List:
    return interpreter.budget.new_list(each(interpreter, value))


def _reverse(interpreter: Interpreter, value: Any) -> Any:
    parts = each(interpreter, value)[::-1]
    return "".join(parts) if isinstance(value, str) else interpreter.budget.new_once(parts)


def _key(interpreter: Interpreter, attribute: Any, case_sensitive: bool) -> Callable[[Any], Any]:
    """The order of items: by an attribute, or several with commas between them; letters of any case are the same."""

    def one(value: Any, name: Any) -> Any:
        value = value if name is None else path(interpreter, value, name)
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    if isinstance(attribute, str) and "," in attribute:
        return lambda value: [one(value, name) for name in attribute.split(",")]
    return lambda value: one(value, attribute)


def _sort(
    interpreter: Interpreter, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> List:
    parts = each(interpreter, value)
    interpreter.budget.spend(size_of(value) * (1 + len(parts).bit_length()))
    return interpreter.budget.new_list(sorted(parts, key=_key(interpreter, attribute, case_sensitive), reverse=reverse))


def _dictsort(
    interpreter: Interpreter, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> List:
    if not isinstance(value, Dict) or by not in ("key", "value"):
        raise RenderFault("`dictsort` sorts a dict by key or by value")
    interpreter.budget.spend(size_of(value) * (1 + len(value).bit_length()))
    key = _key(interpreter, 0 if by == "key" else 1, case_sensitive)
    return interpreter.budget.new_list(sorted(items(interpreter.budget, value), key=key, reverse=reverse))


def _unique(interpreter: Interpreter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Once:
    key, seen = _key(interpreter, attribute, case_sensitive), dict[Any, Any]()
    interpreter.budget.spend(size_of(value))
    for part in each(interpreter, value):
        seen.setdefault(key(part), part)
    return interpreter.budget.new_once(seen.values())


def _best(choose: Callable[..., Any]) -> Filter:
    def apply(interpreter: Interpreter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        interpreter.budget.spend(size_of(value))
        parts = each(interpreter, value)
        key = _key(interpreter, attribute, case_sensitive)
        return choose(parts, key=key) if parts else Undefined("the best of nothing")

    return apply


def _sum(interpreter: Interpreter, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    for part in each(interpreter, value):
        start = interpreter.arithmetic("+", start, part if attribute is None else path(interpreter, part, attribute))
    return start


def _groupby(
    interpreter: Interpreter, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
) -> List:
    groups: dict[Any, list[Any]] = {}
    names: dict[Any, Any] = {}
    for part in _sort(interpreter, value, attribute=attribute, case_sensitive=case_sensitive):
        name = path(interpreter, part, attribute, default)
        key = name.lower() if isinstance(name, str) and not case_sensitive else name
        groups.setdefault(key, []).append(part)
        names.setdefault(key, name)
    budget = interpreter.budget
    return budget.new_list([budget.new_tuple((names[key], budget.new_list(group))) for key, group in groups.items()])


def _batch(interpreter: Interpreter, value: Any, linecount: int, fill_with: Any = None) -> Once:
    parts, budget = each(interpreter, value), interpreter.budget
    if linecount < 1:
        raise RenderFault("`batch` needs a size")
    rows = [parts[at : at + linecount] for at in range(0, len(parts), linecount)]
    if fill_with is not None and rows:
        budget.spend(CELL * linecount)
        rows[-1] += [fill_with] * (linecount - len(rows[-1]))
    return budget.new_once([budget.new_list(row) for row in rows])


def _map(interpreter: Interpreter, value: Any, *arguments: Any, **named: Any) -> Once:
    parts = each(interpreter, value)
    if not arguments and "attribute" in named:
        results: Iterable[Any] = (path(interpreter, part, **_path_options(named)) for part in parts)
    elif arguments:
        results = (interpreter.filter(arguments[0], part, *arguments[1:], **named) for part in parts)
    else:
        raise RenderFault("`map` needs a filter or an attribute")
    return interpreter.budget.new_once(list(results))


def _path_options(named: dict[str, Any]) -> dict[str, Any]:
    return {"names": named["attribute"], "default": named.get("default")}


def _choose(keep: bool, by_attribute: bool) -> Filter:
    """`select`, `reject`, and these by an attribute."""

    def apply(interpreter: Interpreter, value: Any, *arguments: Any) -> Once:
        names, (name, *rest) = arguments[:by_attribute], [*arguments[by_attribute:], None]
        chosen = []
        for part in each(interpreter, value):
            of = path(interpreter, part, names[0]) if by_attribute else part
            passes = bool(of) if name is None else interpreter.test(name, of, *rest[:-1])
            chosen += [part] if passes is keep else []
        return interpreter.budget.new_once(chosen)

    return apply


def _items(interpreter: Interpreter, value: Any) -> Any:
    if isinstance(value, Undefined):
        return interpreter.budget.new_once([])
    if not isinstance(value, Dict):
        raise RenderFault(f"{kind(value)} has no items")
    return interpreter.budget.new_once(items(interpreter.budget, value))


def _attr(interpreter: Interpreter, value: Any, name: str) -> Any:
    """An attribute, never an item."""
    if isinstance(value, Dict) and not isinstance(attribute(interpreter.budget, value, name), Function):
        return Undefined(f"{name!r} of a dict")
    return attribute(interpreter.budget, value, name)


def _truncate(
    interpreter: Interpreter, value: str, length: int = 255, killwords: bool = False, end: str = "...", leeway: int = 5
) -> str:
    interpreter.budget.spend(size_of(value))
    if len(value) <= length + leeway:
        return value
    short = value[: length - len(end)]
    return (short if killwords else short.rsplit(" ", 1)[0]) + end


def _title(interpreter: Interpreter, value: Any) -> str:
    text = interpreter.budget.text(value)
    interpreter.budget.spend(size_of(text) * CELL)
    return "".join(part[:1].upper() + part[1:].lower() for part in re.split(r"([-\s({\[<]+)", text))


def _wordcount(interpreter: Interpreter, value: Any) -> int:
    text = interpreter.budget.text(value)
    interpreter.budget.spend(size_of(text) * CELL)
    return len(re.findall(r"\w+", text))


def _escape(interpreter: Interpreter, value: Any) -> str:
    text = interpreter.budget.text(value)
    for letter, name in {"&": "&amp;", ">": "&gt;", "<": "&lt;", "'": "&#39;", '"': "&#34;"}.items():
        text = replaced(interpreter.budget, text, letter, name)
    return text


def _urlencode(interpreter: Interpreter, value: Any) -> str:
    if not isinstance(value, str):
        raise RenderFault(f"`urlencode` is not for {kind(value)}")
    interpreter.budget.spend(12 * size_of(value))
    return urllib.parse.quote(value, safe="/")


def _string(interpreter: Interpreter, value: Any) -> str:
    return interpreter.budget.text(value)


def _format(interpreter: Interpreter, value: Any, *arguments: Any, **named: Any) -> str:
    budget = interpreter.budget
    return formatted(
        budget, interpreter.budget.text(value), budget.new_dict(named) if named else budget.new_tuple(arguments)
    )


FILTERS: dict[str, Filter] = {
    **{name: _of_text(name) for name in ("capitalize", "lower", "upper")},
    "title": _title,
    "center": lambda interpreter, value, width=80: TEXT["center"](interpreter.budget, value, width),
    "abs": _of_number(abs),
    "tojson": to_json,
    "default": _default,
    "d": _default,
    "trim": _trim,
    "length": _length,
    "count": _length,
    "join": _join,
    "replace": _replace,
    "indent": _indent,
    "int": _to_int,
    "float": _to_float,
    "round": _round,
    "first": _first,
    "last": _last,
    "list": _list,
    "reverse": _reverse,
    "sort": _sort,
    "dictsort": _dictsort,
    "unique": _unique,
    "min": _best(min),
    "max": _best(max),
    "sum": _sum,
    "groupby": _groupby,
    "batch": _batch,
    "map": _map,
    "select": _choose(keep=True, by_attribute=False),
    "reject": _choose(keep=False, by_attribute=False),
    "selectattr": _choose(keep=True, by_attribute=True),
    "rejectattr": _choose(keep=False, by_attribute=True),
    "items": _items,
    "attr": _attr,
    "truncate": _truncate,
    "wordcount": _wordcount,
    "escape": _escape,
    "e": _escape,
    "safe": _string,
    "string": _string,
    "urlencode": _urlencode,
    "format": _format,
}
