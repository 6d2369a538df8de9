"""Samples as JSON with their arrays apart: how inputs travel to a worker, and with a bundle.

A sample is a JSON value in which arrays and bytes may stand: a text, a pair of texts, a series (time, features), an
image's file. `apart` puts {"array": N} or {"bytes": N} where number N of a list of arrays belongs, and `together`
undoes that. So the manifest stays small, however wide a stream is and however large a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import array_file
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Array

ARRAY, BYTES = "array", "bytes"
NAME = "input"  # of the arrays in a file, before `:N`


def apart(samples: Sequence[Any]) -> tuple[list[Any], list[Array]]:
    """The samples as JSON, and the arrays that stand in them."""
    arrays: list[Array] = []
    return [_apart(sample, arrays) for sample in samples], arrays


def together(stated: Sequence[Any], arrays: Sequence[Array]) -> list[Any]:
    """The samples that `apart` took apart. Raises BundleError where an array is named that is not there."""
    return [_together(sample, arrays) for sample in stated]


def count(stated: Any) -> int:
    """How many arrays the samples need. Raises BundleError where an array's number is not one."""
    if _is_place(stated):
        number = next(iter(stated.values()))
        if type(number) is not int or not 0 <= number < 1 << 20:
            raise BundleError(f"a sample names the array {number!r:.80}", hint="export the model again")
        return number + 1
    inner = stated.values() if isinstance(stated, dict) else stated if isinstance(stated, (list, tuple)) else ()
    return max((count(item) for item in inner), default=0)


def write(file: Path, samples: Sequence[Any]) -> list[Any]:
    """The samples as JSON; their arrays are written into an .npz file, if there are any."""
    import numpy as np

    stated, arrays = apart(samples)
    if arrays:
        named: dict[str, Any] = {f"{NAME}:{number}": array for number, array in enumerate(arrays)}
        np.savez(file, **named)
    return stated


def read(file: Path, stated: Sequence[Any]) -> list[Any]:
    """The samples that `write` wrote. Raises BundleError."""
    names = [f"{NAME}:{number}" for number in range(count(stated))]
    if not names:
        return list(stated)
    arrays = array_file.read_npz(file, names)
    return together(stated, [arrays[name] for name in names])


def _is_place(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in (ARRAY, BYTES)


def _apart(value: Any, arrays: list[Array]) -> Any:
    import numpy as np

    if isinstance(value, (np.ndarray, bytes)):
        arrays.append(value if isinstance(value, np.ndarray) else np.frombuffer(value, np.uint8))
        return {ARRAY if isinstance(value, np.ndarray) else BYTES: len(arrays) - 1}
    if isinstance(value, dict):
        assert not _is_place(value), "a sample that looks like the place of an array"
        return {key: _apart(item, arrays) for key, item in value.items()}
    return [_apart(item, arrays) for item in value] if isinstance(value, (list, tuple)) else value


def _together(value: Any, arrays: Sequence[Array]) -> Any:
    if _is_place(value):
        kind, number = next(iter(value.items()))
        return arrays[number].tobytes() if kind == BYTES else arrays[number]
    if isinstance(value, dict):
        return {key: _together(item, arrays) for key, item in value.items()}
    return [_together(item, arrays) for item in value] if isinstance(value, (list, tuple)) else value
