"""Sample inputs of a network from arrays to arrays: made up from a seed by dtype and shape, or the user's .npz files.

A sample is a JSON value: what is made up is its seed, dtypes and shapes, so that goldens stay small; an array of the
user's is its bytes in base64.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgekit.core import Array

COUNT = 16
LENGTHS = (1, 2, 3, 1, 4, 2, 1, 8)  # of the first axis, where it is free
OTHERS = (16, 32, 24, 48)  # of other free axes
FILES = 64  # of a user's folder


def made_up(ports: Sequence[Mapping[str, Any]], shapes: Mapping[str, Sequence[int]] | None = None) -> list[Any]:
    """Samples for the input ports of the settings. `shapes`: all samples have these."""
    return [
        {
            "seed": number,
            "arrays": {
                port["name"]: [port["dtype"], list(shapes[port["name"]] if shapes else _lengths(port["shape"], number))]
                for port in ports
            },
        }
        for number in range(COUNT)
    ]


def _lengths(shape: Sequence[int | str], number: int) -> list[int]:
    first = LENGTHS[number % len(LENGTHS)]
    other = OTHERS[number % len(OTHERS)]
    return [axis if isinstance(axis, int) else other if place else first for place, axis in enumerate(shape)]


def read(path: Path, ports: Sequence[Mapping[str, Any]], option: str = "--calibration") -> list[Any]:
    """The user's samples, an .npz file each: one file, or a folder. Behind made-up ones of the shapes of the first.

    Raises UsageError for what is not such a file.
    """
    files = sorted(path.glob("*.npz"))[:FILES] if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{option} {path}: no .npz file in this folder", hint="write one with numpy.savez(file, x=x)")
    try:
        own = [load(file, [port["name"] for port in ports]) for file in files]
    except InputError as error:
        raise UsageError(f"{option} {error.message}", hint=error.hint) from error
    shapes = {name: array.shape for name, array in own[0].items()}
    return [*made_up(ports, shapes)[:8], *({"own": {name: _text(a) for name, a in one.items()}} for one in own)]


def load(file: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of an .npz file, or of an .npy file where there is one name. Raises InputError."""
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            if len(names) != 1:
                raise InputError(
                    f"{file.name} is one array, and the inputs are {', '.join(names)}", hint="write an .npz file"
                )
            return {names[0]: found}
        with found:
            return {name: found[name] for name in found.files}
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}", hint="name an .npz or .npy file") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        hint = f"write one with numpy.savez(file, {names[0]}=array)"
        raise InputError(f"{file.name} is not an .npz or .npy file of numbers", hint=hint, cause=str(error)) from error


def arrays(sample: Mapping[str, Any]) -> dict[str, Array]:
    """A sample's arrays by input."""
    if "own" in sample:
        return {name: _array(text) for name, text in sample["own"].items()}
    bits = np.random.PCG64(sample["seed"])
    return {name: _values(bits, dtype, shape) for name, (dtype, shape) in sample["arrays"].items()}


def _values(bits: np.random.PCG64, dtype: str, shape: Sequence[int]) -> Array:
    """Floats in -1..1, else 0 or 1, which most tables have and most masks are. The bits are the same everywhere."""
    raw = bits.random_raw(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    if np.dtype(dtype).kind == "f":
        return np.asarray((raw >> np.uint64(40)) / 2**23 - 1).astype(dtype)
    return np.asarray(raw >> np.uint64(63)).astype(dtype)


def _text(array: Array) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode()


def _array(text: str) -> Array:
    array: Array = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array
