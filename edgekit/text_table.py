"""Format values as plain text: tables, `name  value` lines, and text that is safe for a terminal.

On a terminal a table is at most as wide as the screen: cells wrap, and where that is not enough each row becomes a
block of lines. Heads and verdicts have colours there, unless NO_COLOR is set. A pipe gets one line per row, whole and
without colours. Each function returns a value and writes nothing. Knows none of EdgeKit's types.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

GAP = 2  # spaces between two columns
NARROWEST = 8  # letters of a column that wraps
BOLD, GREEN, RED = 1, 32, 31
COLOURS = {"ok": GREEN, "yes": GREEN, "better": GREEN, "FAILED": RED, "NO": RED, "worse": RED}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None = None) -> str:
    """Rows in columns as wide as their widest cell, numeric columns aligned right; "" when there are no rows.

    `width`: letters of a line at most; None means the terminal's width, and no limit where stdout is not a terminal.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    limit = terminal_width() if width is None else width
    numeric = [all(map(_is_number, column)) for column in zip(*cells, strict=True)]
    natural = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    widths = _fitted(natural, heads, cells, numeric, limit)
    if widths is None:
        return "\n\n".join(_block(heads, row, limit) for row in cells)
    lines = _lines(heads, widths, numeric, head=True)
    for row in cells:
        lines += _lines(row, widths, numeric)
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return not cell or (cell[0].isdigit() and ", " not in cell)


def _fitted(
    natural: Sequence[int],
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    limit: int | None,
) -> list[int] | None:
    """The widths of the columns within the limit: the widest text column shrinks first. None if they cannot fit."""
    widths = list(natural)
    if limit is None:
        return widths
    words = [max(map(len, head.split()), default=0) for head in heads]
    whole = [max(map(len, column)) for column in zip(*cells)]  # of cells with numbers, which do not wrap
    least = [
        min(wide, max(word, values if right else NARROWEST))
        for wide, word, values, right in zip(widths, words, whole, numeric)
    ]
    excess = sum(widths) + GAP * (len(widths) - 1) - limit
    while excess > 0:
        # The first column names the row: it shrinks last.
        at = max(range(len(widths)), key=lambda column: (widths[column] > least[column], column > 0, widths[column]))
        if widths[at] <= least[at]:
            return None
        widths[at] -= 1
        excess -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool], *, head: bool = False) -> list[str]:
    """One row as text, in as many lines as its longest cell needs."""
    columns = [textwrap.wrap(cell, wide) or [""] for cell, wide in zip(row, widths)]
    lines = []
    for number in range(max(map(len, columns))):
        parts = []
        for cell, whole, wide, right in zip(columns, row, widths, numeric):
            text = cell[number] if number < len(cell) else ""
            text = text.rjust(wide) if right else text.ljust(wide)
            parts.append(paint(text, BOLD if head else COLOURS.get(whole)))
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def _block(heads: Sequence[str], row: Sequence[str], limit: int | None) -> str:
    """A row as lines `head  value`, for a screen that is too narrow for columns."""
    first, *rest = row
    lines = [paint(part, BOLD) for part in textwrap.wrap(first, limit or len(first) or 1)]
    wide = max(map(len, heads[1:]), default=0)
    for head, cell in zip(heads[1:], rest):
        if cell:
            parts = textwrap.wrap(cell, max((limit or 0) - wide - 2 * GAP, 1))
            lines.append(f"  {head.ljust(wide)}  {paint(parts[0], COLOURS.get(cell))}")
            lines += [" " * (wide + 2 * GAP) + part for part in parts[1:]]
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """A paragraph in lines of the terminal's width; unchanged where stdout is not a terminal."""
    width = terminal_width()
    return text if width is None else "\n".join(textwrap.wrap(text, max(width, NARROWEST), subsequent_indent="  "))


def terminal_width() -> int | None:
    """Letters in a line of the terminal on stdout; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if on_terminal() else None


def on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def paint(text: str, colour: int | None) -> str:
    """Text in a colour, where stdout is a terminal that has colours and NO_COLOR (https://no-color.org) is not set."""
    if colour is None or not text or not on_terminal() or os.environ.get("NO_COLOR"):
        return text
    return text if os.environ.get("TERM", "dumb") == "dumb" else f"\x1b[{colour}m{text}\x1b[0m"


def pairs(values: Mapping[str, object]) -> str:
    """`name  value` lines, one for each value that is not empty and not None; long values wrap on a terminal."""
    texts = {name: clean(str(value)) for name, value in values.items() if value not in (None, "", ())}
    wide, limit = max(map(len, texts), default=0), terminal_width()
    lines = []
    for name, text in texts.items():
        parts = [text] if limit is None else textwrap.wrap(text, max(limit - wide - GAP, NARROWEST)) or [""]
        lines.append(f"{name.ljust(wide)}  {parts[0]}")
        lines += [" " * (wide + GAP) + part for part in parts[1:]]
    return "\n".join(lines)


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
