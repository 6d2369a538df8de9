"""Where a sentence-transformers folder keeps its parts: modules.json at the top, the encoder there or in a sub-folder.

Versions before 2020's kept the encoder in `0_Transformer`, so that the top has no config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.bundle import safe_files
from edgekit.errors import BundleError

MODULES = "modules.json"
MAX_BYTES = 1 << 20
LEVELS = 3  # of folders between modules.json and the encoder


def modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of the folder's modules.json, each with a type and a path inside; [] without one.

    Raises BundleError.
    """
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(MAX_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested as deep as the stack
        raise _bad(f"{MODULES} is not JSON: {error}") from error
    if not isinstance(content, list):
        raise _bad(f"{MODULES} is not a JSON list")
    for entry in content:
        stated = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None,)
        if not all(isinstance(value, str) for value in stated):
            raise _bad(f"{MODULES} has an entry without type and path")
        if entry["path"]:
            _check_inside(entry["path"])
    return content


def encoder(folder: Path) -> str:
    """The sub-folder of the Transformer module, by modules.json; empty for the folder itself. Raises BundleError."""
    kinds = (entry for entry in modules(folder) if entry["type"].rpartition(".")[2] == "Transformer")
    path = str(next(kinds, {"path": ""})["path"]).strip("/")
    if path.count("/") >= LEVELS:
        raise _bad(f"{MODULES} has its encoder more than {LEVELS} folders down: {path!r}")
    return path


def home(folder: Path) -> Path | None:
    """The folder of the modules.json that an encoder in `folder` belongs to: itself, or one above that names it.

    None where there is none. Raises BundleError.
    """
    if (folder / MODULES).is_file():
        return folder
    above = (parent for parent in folder.parents[:LEVELS] if (parent / MODULES).is_file())
    return next((parent for parent in above if parent / encoder(parent) == folder), None)


def _check_inside(path: str) -> None:
    try:
        safe_files.parts(path.rstrip("/"))
    except BundleError:
        raise BundleError(f"{MODULES} points out of its folder: {path!r}", hint="do not use this model") from None


def _bad(what: str) -> BundleError:
    return BundleError(what, hint="download or save the model again")
