"""What a caller may ask of a decoder's state, the same on every engine: checked here, done by the engine's session.

Knows no engine.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core import free
from edgekit.errors import StateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Arrays, Port

    Integers = NDArray[np.int64]


def alone(busy: threading.Lock) -> threading.Lock:
    """What a `with` holds while it uses a state. Raises SessionBusyError if another thread is at it."""
    return free(busy, "two threads use one state", hint="fork the state, or take turns")


def check_start(batch: int, capacity: int) -> None:
    """Raises StateError for a state of no rows."""
    if batch < 1 or capacity < 0:
        raise StateError(f"a state for {batch} rows of {capacity} tokens", hint="at least one row is needed")


def check_rows(rows: Sequence[int], have: int) -> None:
    """Raises StateError for a row that is not there, and for none."""
    if not len(rows) or any(not 0 <= row < have for row in rows):
        raise StateError(f"rows {list(rows)} of a state that has {have}", hint="count from 0; take at least one")


def check_trim(lengths: Sequence[int], held: Integers, *, fixed: bool = False) -> Integers:
    """The lengths as an array of their own. Raises StateError for more than a row holds.

    `fixed`: a part of the state has a fixed size. It cannot go back, but to the start of all rows.
    """
    wanted = np.array(lengths, np.int64)
    if wanted.shape != held.shape or (wanted < 0).any() or (wanted > held).any():
        raise StateError(
            f"rows of {held.tolist()} tokens cannot be cut to {wanted.tolist()}",
            hint="give one length a row, from 0 to what the row holds",
        )
    if fixed and wanted.any() and (wanted != held).any():
        raise StateError(
            f"a recurrent state of {held.tolist()} tokens cannot go back to {wanted.tolist()}",
            hint="fork the state to keep it, or start again",
        )
    return wanted


def check_saved(arrays: Arrays, ports: Mapping[str, Port]) -> Integers:
    """The lengths of a saved state, whose caches fit the ports. Raises StateError."""
    lengths = arrays.get("lengths")
    if lengths is None or lengths.dtype != np.int64 or lengths.ndim != 1 or not len(lengths):
        raise not_ours("it has no lengths, int64 (batch,)")
    if (lengths < 0).any() or arrays.keys() - {"lengths"} != ports.keys():
        raise not_ours("it holds other caches")
    for name, port in ports.items():
        shape = (len(lengths), port.shape[1], int(lengths.max()), port.shape[3])
        if arrays[name].shape != shape or arrays[name].dtype.name != port.dtype:
            found = f"{arrays[name].dtype.name} {list(arrays[name].shape)}"
            raise not_ours(f"{name} is {found}, not {port.dtype} {list(shape)}")
    return lengths


def not_ours(why: str) -> StateError:
    return StateError(f"this is no saved state of this graph: {why}", hint="load it into the model that saved it")
