"""Operators, attributes and items: Python's own, of values whose size is paid for before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from edgekit import limits

from .faults import LimitFault, RenderFault
from .methods import METHODS, formatted
from .values import Budget, Dict, Function, List, Namespace, Once, Tuple, Undefined, kind, size_of

ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "**": operator.pow,
}  # fmt: skip


def arithmetic(budget: Budget, sign: str, left: Any, right: Any) -> Any:
    """`left sign right`. Raises RenderFault, LimitFault."""
    for value in (left, right):
        if isinstance(value, Undefined):
            raise value.fail()
    if isinstance(left, int | float) and isinstance(right, int | float):
        return bounded(_number(sign, left, right))
    if sign == "+":
        return _sum(budget, left, right)
    if sign == "*":
        return _repeated(budget, left, right)
    if sign == "%" and isinstance(left, str):
        return formatted(budget, left, right)
    raise unfit(sign, left, right)


def unfit(sign: str, left: Any, right: Any) -> RenderFault:
    return RenderFault(f"{sign!r} is not for {kind(left)} and {kind(right)}")


def _number(sign: str, left: Any, right: Any) -> Any:
    is_power = sign == "**" and isinstance(left, int) and isinstance(right, int)
    if is_power and left.bit_length() * abs(right) > limits.TEMPLATE_INTEGER_BITS:
        raise LimitFault("a number is too large")
    return NUMBERS[sign](left, right)


def bounded(value: Any) -> Any:
    """The number, unless it is so large that computing with it takes long."""
    if isinstance(value, complex):
        raise RenderFault("a root of a negative number")
    if isinstance(value, int) and value.bit_length() > limits.TEMPLATE_INTEGER_BITS:
        raise LimitFault("a number is too large")
    return value


def _sum(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        budget.spend(len(left) + len(right))
        return left + right
    if isinstance(left, List) and isinstance(right, List):
        return budget.new_list([*left, *right])
    if isinstance(left, Tuple) and isinstance(right, Tuple):
        return budget.new_tuple((*left, *right))
    raise unfit("+", left, right)


def _repeated(budget: Budget, left: Any, right: Any) -> Any:
    value, count = (right, left) if isinstance(left, int) else (left, right)
    if not isinstance(count, int) or not isinstance(value, str | List | Tuple):
        raise unfit("*", left, right)
    budget.spend((1 if isinstance(value, str) else 16) * len(value) * max(count, 0))
    if isinstance(value, str):
        return value * count
    return budget.new_list(list(value) * count) if isinstance(value, List) else budget.new_tuple(tuple(value) * count)


def compare(budget: Budget, sign: str, left: Any, right: Any) -> bool:
    """`left sign right`. Raises RenderFault, LimitFault."""
    budget.spend(size_of(right) + size_of(left) if "in" in sign else min(size_of(left), size_of(right)))
    if sign in ("==", "!="):
        return bool(left == right) is (sign == "==")
    if sign in ("in", "not in"):
        return contains(left, right) is (sign == "in")
    for value in (left, right):
        if isinstance(value, Undefined):
            raise value.fail()
    return bool(ORDER[sign](left, right))


def contains(value: Any, container: Any) -> bool:
    if isinstance(container, str) and not isinstance(value, str):
        raise unfit("in", value, container)
    if not isinstance(container, str | List | Tuple | Dict | Once | Undefined):
        raise unfit("in", value, container)
    return value in container


def attribute(budget: Budget, value: Any, name: str) -> Any:
    """`value.name`: a method before an item, as in Python."""
    if isinstance(value, Undefined):
        raise value.fail()
    if isinstance(value, Namespace):
        return value.attributes.get(name, Undefined(f"{name!r} of the namespace"))
    if method := _method(budget, value, name):
        return method
    return value[name] if isinstance(value, Dict) and name in value else Undefined(f"{name!r} of {kind(value)}")


def item(budget: Budget, value: Any, key: Any) -> Any:
    """`value[key]`: an item before a method."""
    if isinstance(value, Undefined):
        raise value.fail()
    if isinstance(key, slice) and isinstance(value, str | List | Tuple):
        return _slice(budget, value, key)
    if isinstance(value, Dict) and isinstance(key, str | int | float | None) and key in value:
        return value[key]
    if isinstance(value, str | List | Tuple) and isinstance(key, int) and -len(value) <= key < len(value):
        return value[key]
    if isinstance(value, Namespace) and isinstance(key, str):
        return value.attributes.get(key, Undefined(f"{key!r} of the namespace"))
    method = _method(budget, value, key) if isinstance(key, str) else None
    return method or Undefined(f"{key!r:.40} of {kind(value)}")


def _slice(budget: Budget, value: Any, key: slice) -> Any:
    part = value[key]
    if isinstance(value, str):
        budget.spend(len(part))
        return part
    return budget.new_list(part) if isinstance(value, List) else budget.new_tuple(part)


def _method(budget: Budget, value: Any, name: str) -> Function | None:
    function = METHODS.get(type(value), {}).get(name)
    if function is None:
        return None
    return Function(name, lambda *positional, **named: function(budget, value, *positional, **named))
