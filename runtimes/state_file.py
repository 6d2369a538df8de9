"""Save and load the state of a session: a JSON description, and the engine's arrays.

One file, whole or absent, that no byte of is trusted. Knows neither what is said nor what the arrays are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import array_file, safe_files, user_files
from edgekit.errors import StateError

if TYPE_CHECKING:
    from edgekit.core import Array

TOLD, ARRAY = "told", "state/"  # the entry of what is said; what an array's name is behind


def write(path: str | Path | None, told: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """The bytes of the state, which the file `path` has then, if one is named.

    Raises UsageError for a place that cannot be written to, ResourceError when the disk is full.
    """
    file = None if path is None else safe_files.path_of(path, "path")
    named: dict[str, Any] = {f"{ARRAY}{name}": array for name, array in arrays.items()}
    named[TOLD] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    if file is not None:
        user_files.save(file, buffer.getvalue())
    return buffer.getvalue()


def title(source: str | Path | bytes) -> str:
    """What messages call a saved state."""
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def read(source: str | Path | bytes, what: str, made_for: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """What a file or bytes hold: what is said of it, and the arrays. `what` it should be, for messages.

    Raises StateError for a source that holds nothing of the kind, or was `made_for` another model.
    """
    place = source if isinstance(source, bytes) else safe_files.path_of(source, "path")
    try:
        arrays = array_file.read_npz(place)
        told = json.loads(arrays.pop(TOLD).tobytes())
        owner = told["made_for"]
    except Exception as error:  # what a torn file makes numpy, zipfile and json raise has no end
        raise broken(source, what, error) from error
    if owner != made_for:
        raise StateError(f"{title(source)} was saved by {owner}", hint=f"this is {made_for}")
    return told, {name.removeprefix(ARRAY): array for name, array in arrays.items()}


def broken(source: str | Path | bytes, what: str, error: Exception) -> StateError:
    return StateError(f"{title(source)} is not a saved {what}", hint="save it again", cause=str(error))
