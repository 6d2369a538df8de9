"""Read untrusted JSON strictly: return the object, or refuse the file with a reason.

Knows nothing of what the values mean. Python's own reader lets the last of two equal keys win and nests as deep as
the stack; two readers that disagree about a file are how a check is passed by and then something else is loaded.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.errors import BundleError
from edgekit.machine.shortage import resource_error

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape of UTF-16, of which two make a character


def read(path: Path, max_bytes: int) -> dict[str, Any]:
    """The object that the file holds. Raises BundleError; at most `max_bytes` are read."""
    try:
        with safe_files.open_file(path) as file:
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, BundleError):
        raise _bad(f"{path.name} is missing, or not a regular file", str(path)) from None
    except OSError as error:
        if resource := resource_error(error, f"{path.name} cannot be read"):
            raise resource from None
        raise _bad(f"{path.name} cannot be read: {error.strerror}", str(path)) from None
    if len(data) > max_bytes:
        raise _bad(f"{path.name} is longer than the {max_bytes} bytes that are allowed", str(path))
    return parse(data, path.name, file=str(path))


def parse(data: bytes, name: str, *, file: str = "") -> dict[str, Any]:
    """The object that UTF-8 `data` holds; `name` is what an error calls it. Raises BundleError.

    Infinity is let through, as Python does: the Mamba-2 configs on the hub hold it.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # also bad UTF-8, and a number of thousands of digits
        raise _bad(f"{name} is not valid JSON: {error}", file) from None
    if _HALF.search(data) and not _is_text(found):
        raise _bad(f"{name} holds half a character (a lone surrogate)", file)
    if not isinstance(found, dict):
        raise _bad(f"{name} holds a JSON {type(found).__name__}, not an object", file)
    if _deeper_than(found, limits.JSON_DEPTH):
        raise _bad(f"{name} nests deeper than {limits.JSON_DEPTH} levels", file)
    return found


def _is_text(value: Any) -> bool:
    """Whether all strings in it can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return found


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        layer = [item for part in layer for item in _inside(part)]
        if not layer:
            return False
    return True


def _inside(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in inner if isinstance(item, (dict, list))]


def _bad(what: str, file: str) -> BundleError:
    return BundleError(what, hint="download or save the file again", file=file)
