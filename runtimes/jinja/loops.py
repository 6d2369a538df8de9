"""`loop` in a for-loop, and the small helpers `cycler` and `joiner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .faults import RenderFault
from .values import Function, Undefined


class Loop:
    """Where a loop is. `at`: the current turn, from 0."""

    def __init__(self, parts: list[Any], depth: int, again: Callable[[Any], str] | None) -> None:
        self._parts, self._depth, self._again = parts, depth, again
        self._changed: Any = self
        self.at = 0

    def __repr__(self) -> str:
        return "<loop>"

    def attribute(self, name: Any) -> Any:
        """`loop.name`; undefined where there is no such attribute."""
        read = LOOP.get(name) if isinstance(name, str) else None
        return read(self) if read else Undefined(f"{name!r} of loop")

    def call(self, *items: Any) -> str:
        """`loop(items)`: the loop again, one level deeper."""
        if self._again is None or len(items) != 1:
            raise RenderFault("this loop is not recursive" if self._again is None else "loop() takes one list")
        return self._again(items[0])

    def near(self, distance: int) -> Any:
        at = self.at + distance
        return self._parts[at] if 0 <= at < len(self._parts) else Undefined("an item beyond the loop")

    def cycle(self, *values: Any) -> Any:
        if not values:
            raise RenderFault("loop.cycle() needs values")
        return values[self.at % len(values)]

    def changed(self, *values: Any) -> bool:
        same, self._changed = self._changed == values, values
        return not same


LOOP: dict[str, Callable[[Loop], Any]] = {
    "index": lambda loop: loop.at + 1,
    "index0": lambda loop: loop.at,
    "revindex": lambda loop: len(loop._parts) - loop.at,
    "revindex0": lambda loop: len(loop._parts) - loop.at - 1,
    "first": lambda loop: loop.at == 0,
    "last": lambda loop: loop.at == len(loop._parts) - 1,
    "length": lambda loop: len(loop._parts),
    "depth": lambda loop: loop._depth,
    "depth0": lambda loop: loop._depth - 1,
    "previtem": lambda loop: loop.near(-1),
    "nextitem": lambda loop: loop.near(1),
    "cycle": lambda loop: Function("cycle", loop.cycle),
    "changed": lambda loop: Function("changed", loop.changed),
}
