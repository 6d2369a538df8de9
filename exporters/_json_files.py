"""Read JSON files of a Hugging Face folder, any of which may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError


def read_object(file: Path) -> dict[str, Any]:
    """The object in `file`, or {} where there is no such file. Raises BundleError when it holds something else."""
    found: dict[str, Any] = _read(file, {})
    return found


def read_list(file: Path) -> list[Any]:
    """The list in `file`, or [] where there is no such file. Raises BundleError when it holds something else."""
    found: list[Any] = _read(file, [])
    return found


def _read(file: Path, empty: Any) -> Any:
    if not file.is_file():
        return empty
    hint = "download or save the model again"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested as deep as the stack
        raise BundleError(f"{file.name} is not JSON: {error}", hint=hint, file=str(file)) from error
    if not isinstance(content, type(empty)):
        kind = {"dict": "object", "list": "list"}[type(empty).__name__]
        raise BundleError(f"{file.name} is not a JSON {kind}", hint=hint, file=str(file))
    return content
