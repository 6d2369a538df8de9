"""What a template computes with, and how much of it.

Values are None, bool, int, float, str, the containers here, `Namespace`, `Undefined` and functions of a template; never
another Python object, so that there is nothing to break out of. Containers do not change. Each knows its whole size,
with all that is in it, and each operation pays for the size of what it reads and makes. So time and memory are bounded,
even where a list holds the same list twice, and that one another twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from edgekit import limits

from .faults import LimitFault, RenderFault

Sized = TypeVar("Sized", "List", "Tuple", "Once")
CELL = 16  # units of work that a value costs besides its characters


class Undefined:
    """What a name, an attribute or an item is that does not exist: empty, false, and unfit for all else."""

    def __init__(self, what: str = "a value") -> None:
        self.what = what

    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        return "Undefined"

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Undefined)

    def __hash__(self) -> int:
        return hash(Undefined)

    def fail(self) -> RenderFault:
        return RenderFault(f"{self.what} is undefined")


class List(list[Any]):
    size = CELL


class Tuple(tuple[Any, ...]):
    size = CELL


class Dict(dict[Any, Any]):
    size = CELL


class Once(list[Any]):
    """What jinja2 has a generator for (`select`, `map`): true even if it is empty, and without a length."""

    size = CELL

    def __bool__(self) -> bool:
        return True


class Namespace:
    """The one value that changes: a template sets its attributes."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.attributes: dict[str, Any] = {}
        for name, value in attributes.items():
            self.set(name, value)

    def __repr__(self) -> str:
        return "<namespace>"

    def set(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise RenderFault(f"a namespace has no attribute {name!r}")
        self.attributes[name] = value


class Function:
    """What a template can call: a global, a method of a value, a macro."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call

    def __repr__(self) -> str:
        return f"<{self.name}>"  # never an address


class Budget:
    """How much work a rendering may still do.

    `unescaped` is applied to each text that Python wrote with escapes: JSON, representations of values.
    """

    def __init__(self, unescaped: Callable[[str], str] = lambda text: text) -> None:
        self.unescaped = unescaped
        self.steps = limits.TEMPLATE_STEPS
        self.work = limits.TEMPLATE_WORK

    def spend(self, work: int) -> None:
        """Pay before the work is done. Raises LimitFault."""
        self.work -= work
        if self.work < 0:
            raise LimitFault("it reads and writes too much")

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise LimitFault("it takes too many steps")

    def new_list(self, items: Iterable[Any]) -> List:
        return self._sized(List(items))

    def new_tuple(self, items: Iterable[Any]) -> Tuple:
        return self._sized(Tuple(items))

    def new_once(self, items: Iterable[Any]) -> Once:
        return self._sized(Once(items))

    def new_dict(self, items: Mapping[Any, Any]) -> Dict:
        for key in items:
            if not isinstance(key, str | int | float | None):
                raise RenderFault(f"a key is {kind(key)}")
        value = Dict(items)
        value.size = self._size(2 * len(value), [*value, *value.values()])
        return value

    def _sized(self, value: Sized) -> Sized:
        value.size = self._size(len(value), value)
        return value

    def _size(self, cells: int, parts: Iterable[Any]) -> int:
        self.spend(CELL * (cells + 1))
        size = CELL + sum(map(size_of, parts))
        if size > limits.TEMPLATE_WORK:
            raise LimitFault("it makes a list that is too large")
        return size

    def plain(self, value: Any) -> Any:
        """JSON-like data of a caller as values of a template. Raises RenderFault for what is not."""
        if isinstance(value, Mapping):
            return self.new_dict({self.plain(key): self.plain(item) for key, item in value.items()})
        if isinstance(value, list):
            return self.new_list([self.plain(item) for item in value])
        if isinstance(value, tuple):
            return self.new_tuple([self.plain(item) for item in value])
        if isinstance(value, str | bool | int | float | None):
            return value
        raise RenderFault(f"a value is {type(value).__name__}, not JSON")

    def text(self, value: Any) -> str:
        """The value as it is written. Raises RenderFault for a function."""
        if isinstance(value, str):
            return value
        if isinstance(value, Function | Namespace | Once):
            raise RenderFault(f"{kind(value)} cannot be written")
        self.spend(size_of(value))
        return self.unescaped(str(value))

    def json(self, value: Any, **options: Any) -> str:
        """JSON, as `json.dumps` writes it. Raises RenderFault, TypeError for what has none."""
        if isinstance(value, Once):
            raise RenderFault("the result of a filter such as `map` is not JSON before `list`")
        self.spend(2 * size_of(value))
        width = options.get("indent")
        if isinstance(width, str | int) and not isinstance(width, bool):
            self.spend(size_of(value) // CELL * (len(width) if isinstance(width, str) else max(width, 0)))
        return self.unescaped(json.dumps(value, **options))


def size_of(value: Any) -> int:
    """Units of work that it takes to read the value whole."""
    if isinstance(value, str):
        return CELL + len(value)
    return value.size if isinstance(value, List | Tuple | Dict | Once) else CELL


def kind(value: Any) -> str:
    """What the value is, for messages."""
    if isinstance(value, Undefined):
        return "undefined"
    if isinstance(value, Function):
        return f"the function {value.name}"
    names = {"NoneType": "none", "str": "a text", "int": "a number", "float": "a number", "bool": "true or false"}
    name = type(value).__name__
    return names.get(name, f"a {name.lower()}")
