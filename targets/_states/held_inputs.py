"""Inputs that a state is given once, with its first step, and holds: cross caches, an image's embedding.

Their arrays are copied when they come and never written after that. So copies of a state share them, and picked rows do
too, as long as each row still holds what it held: the beams of one text. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import Graph, Port
from edgekit.errors import InputError

from .fixed_states import BATCH, not_ours

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays


@dataclass(frozen=True, eq=False)
class HeldArrays:
    """What some rows hold, by the inputs' names; empty until the first step.

    `origins`: which row of the first step each row is.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    origins: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


NOTHING = HeldArrays()


class HeldInputs:
    """The held inputs of a graph: its states without `out`."""

    def __init__(self, graph: Graph) -> None:
        names = {state.into for state in graph.states if state.out is None}
        self.ports = {port.name: port for port in graph.inputs if port.name in names}

    def __len__(self) -> int:
        return len(self.ports)

    def split(self, arrays: Arrays) -> tuple[dict[str, Array], Arrays]:
        """Those of these inputs, and the others."""
        if not self.ports:
            return {}, arrays
        mine = {name: array for name, array in arrays.items() if name in self.ports}
        return mine, {name: array for name, array in arrays.items() if name not in mine}

    def after(self, before: HeldArrays, feeds: Arrays, batch: int, *, empty: bool = False) -> HeldArrays:
        """What a state of `batch` rows holds from a step with these `feeds` on; one that is `empty` takes others.

        Raises InputError for a held input that is missing in the first step or has another shape, and for one that
        comes again.
        """
        if not self.ports or (before.arrays and not (feeds and empty)):
            if feeds:
                raise InputError(
                    f"input {next(iter(feeds))!r} is held by the state already",
                    hint="give it with the first run of a state only; start a new state for another",
                )
            return before
        for name, port in self.ports.items():
            if name not in feeds:
                hint = "give it with the first run of a state, which holds it from then on"
                raise InputError(f"input {name!r} is missing", hint=hint)
            if not _fits(feeds[name], port, batch):
                raise InputError(f"input {name!r} is {_text(feeds[name])}", hint=f"expected {_expected(port, batch)}")
        return HeldArrays({name: np.array(feeds[name], order="C") for name in self.ports}, tuple(range(batch)))

    def rows(self, held: HeldArrays, rows: Sequence[int]) -> HeldArrays:
        """The same of these rows, in this order."""
        origins = tuple(held.origins[row] for row in rows) if held.arrays else ()
        if origins == held.origins:
            return held
        arrays = {name: self._picked(name, array, rows) for name, array in held.arrays.items()}
        return HeldArrays(arrays, origins)

    def part(self, held: HeldArrays, rows: slice) -> dict[str, Array]:
        """Of rows that follow each other, without a copy where that can be."""
        if rows == slice(0, len(held.origins)):
            return held.arrays
        return {name: self._cut(name, array, rows) for name, array in held.arrays.items()}

    def save(self, held: HeldArrays) -> dict[str, Array]:
        return {name: array.copy() for name, array in held.arrays.items()}

    def load(self, arrays: Arrays, batch: int) -> HeldArrays:
        """What `save` gave: all of them, or none. Raises StateError."""
        if not arrays:
            return NOTHING
        for name, port in self.ports.items():
            if name not in arrays:
                raise not_ours(f"it has no {name}")
            if not _fits(arrays[name], port, batch):
                raise not_ours(f"{name} is {_text(arrays[name])}, not {_expected(port, batch)}")
        return HeldArrays({name: np.array(arrays[name], order="C") for name in self.ports}, tuple(range(batch)))

    def drawn(self, random: np.random.Generator, length: int) -> dict[str, Array]:
        """Arrays for a question that is always the same, of one row: free axes have this length, integers are ones."""
        arrays = {}
        for name, port in self.ports.items():
            shape = [1 if axis == BATCH else length if isinstance(axis, str) else axis for axis in port.shape]
            numbers = random.standard_normal(shape) if port.dtype.startswith("float") else np.ones(shape)
            arrays[name] = numbers.astype(port.dtype)
        return arrays

    def _axis(self, name: str) -> int | None:
        shape = self.ports[name].shape
        return shape.index(BATCH) if BATCH in shape else None

    def _picked(self, name: str, array: Array, rows: Sequence[int]) -> Array:
        axis = self._axis(name)
        return array if axis is None else np.take(array, list(rows), axis)

    def _cut(self, name: str, array: Array, rows: slice) -> Array:
        axis = self._axis(name)
        return array if axis is None else np.ascontiguousarray(array[(slice(None),) * axis + (rows,)])


def _fits(array: Array, port: Port, batch: int) -> bool:
    """Whether it has the port's dtype, rank, fixed axes and so many rows."""
    return (
        array.dtype.name == port.dtype
        and array.ndim == len(port.shape)
        and all(
            length == (batch if axis == BATCH else axis)
            for axis, length in zip(port.shape, array.shape)
            if axis == BATCH or isinstance(axis, int)
        )
    )


def _text(array: Array) -> str:
    return f"{array.dtype.name} {list(array.shape)}"


def _expected(port: Port, batch: int) -> str:
    return f"{port.dtype} {[batch if axis == BATCH else axis for axis in port.shape]}"
