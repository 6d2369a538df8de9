"""Jinja's tests, which stand behind `is`: functions of (interpreter, value, arguments...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .filters import FILTERS
from .values import Dict, Function, List, Once, Tuple, Undefined

if TYPE_CHECKING:
    from .interpreter import Interpreter

Predicate = Callable[..., Any]


def _is_iterable(interpreter: Interpreter, value: Any) -> bool:
    return isinstance(value, str | List | Tuple | Dict | Once | Undefined)


def _comparison(sign: str) -> Predicate:
    return lambda interpreter, value, other: interpreter.compare(sign, value, other)


TESTS: dict[str, Predicate] = {
    "defined": lambda interpreter, value: not isinstance(value, Undefined),
    "undefined": lambda interpreter, value: isinstance(value, Undefined),
    "none": lambda interpreter, value: value is None,
    "boolean": lambda interpreter, value: isinstance(value, bool),
    "true": lambda interpreter, value: value is True,
    "false": lambda interpreter, value: value is False,
    "integer": lambda interpreter, value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda interpreter, value: isinstance(value, float),
    "number": lambda interpreter, value: isinstance(value, int | float),
    "string": lambda interpreter, value: isinstance(value, str),
    "mapping": lambda interpreter, value: isinstance(value, Dict),
    "sequence": lambda interpreter, value: (
        isinstance(value, str | List | Tuple | Dict | Undefined) and not isinstance(value, Once)
    ),
    "iterable": _is_iterable,
    "callable": lambda interpreter, value: isinstance(value, Function | Undefined),  # as in jinja2
    "escaped": lambda interpreter, value: False,
    "lower": lambda interpreter, value: interpreter.budget.text(value).islower(),
    "upper": lambda interpreter, value: interpreter.budget.text(value).isupper(),
    "even": lambda interpreter, value: interpreter.arithmetic("%", value, 2) == 0,
    "odd": lambda interpreter, value: interpreter.arithmetic("%", value, 2) == 1,
    "divisibleby": lambda interpreter, value, by: interpreter.arithmetic("%", value, by) == 0,
    "sameas": lambda interpreter, value, other: value is other,
    "filter": lambda interpreter, value: value in FILTERS,
    "test": lambda interpreter, value: value in TESTS,
    "in": _comparison("in"),
    **{name: _comparison("==") for name in ("==", "eq", "equalto")},
    **{name: _comparison("!=") for name in ("!=", "ne")},
    **{name: _comparison("<") for name in ("<", "lt", "lessthan")},
    **{name: _comparison("<=") for name in ("<=", "le")},
    **{name: _comparison(">") for name in (">", "gt", "greaterthan")},
    **{name: _comparison(">=") for name in (">=", "ge")},
}
