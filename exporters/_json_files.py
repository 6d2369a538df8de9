"""Read JSON files of a Hugging Face folder, any of which may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError


def read_object(file: Path) -> dict[str, Any]:
    """The object in `file`, or {} where there is no such file. Raises BundleError when it holds something else."""
    if not file.is_file():
        return {}
    hint = "download or save the model again"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested as deep as the stack
        raise BundleError(f"{file.name} is not JSON: {error}", hint=hint, file=str(file)) from error
    if not isinstance(content, dict):
        raise BundleError(f"{file.name} is not a JSON object", hint=hint, file=str(file))
    return content
