"""Format values as plain text: tables, `name  value` lines, and text that is safe for a terminal.

Tables have no colours and are not cut to the screen's width, so a pipe gets what a terminal shows. Each function
returns a value and writes nothing. Knows none of EdgeKit's types.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows in columns as wide as their widest cell, numeric columns aligned right; "" when there are no rows."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    numeric = [all(cell[:1].isdigit() or not cell for cell in column) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        for row in (heads, *cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def pairs(values: Mapping[str, object]) -> str:
    """`name  value` lines, one for each value that is not empty and not None."""
    texts = {name: clean(str(value)) for name, value in values.items() if value not in (None, "", ())}
    width = max(map(len, texts), default=0)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in texts.items())


def one_line(text: str) -> str:
    """`text` without line feeds and without control characters."""
    return " ".join(clean(text).split())


def clean(text: str) -> str:
    """`text` with control characters escaped: a label or a file name must not be able to drive a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses become objects, arrays become lists, NaN and infinity become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without an import of numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)
