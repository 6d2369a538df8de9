"""Pieces of HTML: escaped text, tables that a script may sort, sections. Knows no record.

Whatever comes from outside goes through `text` or `prose`, which escape it, cut it and take out what cannot be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from edgekit.reporting import number_text

MOST_ROWS = 40  # of a table


@dataclass(frozen=True)
class Cell:
    """`html` is put in as it is; `key` is what the table is sorted by, None for nothing to sort."""

    html: str
    key: float | str | None = None

    @property
    def empty(self) -> bool:
        return self.html == number_text.DASH


@dataclass(frozen=True)
class Head:
    """Of a column: its name, and what is under it in small letters."""

    name: str
    under: str = ""
    number: bool = True


@dataclass(frozen=True)
class Line:
    """Of a table; the first cell names it."""

    cells: tuple[Cell, ...]
    style: str = ""


def text(value: Any) -> str:
    """A value as the page may hold it: escaped, of bearable length, a dash for what was not measured."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return escape(number_text.cut(None if missing else value))


def prose(value: str) -> str:
    """The same for a paragraph, which may be longer."""
    return escape(number_text.cut(value, number_text.PROSE))


def cell(value: Any, key: float | str | None = None) -> Cell:
    """A cell of plain text."""
    finite = key if not isinstance(key, float) or math.isfinite(key) else None
    return Cell(text(value), finite)


def table(name: str, heads: Sequence[Head], lines: Sequence[Line], *, most: int = MOST_ROWS) -> Iterator[str]:
    """A table that scrolls in its own frame; a column without a value is left out. `name` is for who cannot see it."""
    shown = lines[:most]
    kept = [at for at in range(len(heads)) if at == 0 or any(not line.cells[at].empty for line in shown)]
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}"><table class="sortable">'
    yield f"<thead><tr>{''.join(_head(heads[at]) for at in kept)}</tr></thead><tbody>"
    for line in shown:
        style = f' class="{line.style}"' if line.style else ""
        cells = "".join(_cell(line.cells[at], heads[at], first=at == 0) for at in kept)
        yield f"<tr{style}>{cells}</tr>"
    yield "</tbody></table></div>"
    yield more(len(lines) - most, "row")


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they are."""
    return f'<dl class="facts">{"".join(f"<dt>{text(a)}</dt><dd>{prose(b)}</dd>" for a, b in pairs)}</dl>'


def figure(title: str, picture: str, caption: str, left: int = 0) -> str:
    """A plot with its heading and what to read in it; `left`: how many rows it does not show."""
    rest = more(left, "row")
    return f"<figure><h4>{text(title)}</h4>{picture}<figcaption>{prose(caption)}</figcaption>{rest}</figure>"


def more(number: int, noun: str) -> str:
    if number <= 0:
        return ""
    verb = "is" if number == 1 else "are"
    more = number_text.count(number, f"more {noun}")
    return f'<p class="soft">{more} {verb} not shown; the JSON and the CSV have them.</p>'


def _head(head: Head) -> str:
    under = f"<br><small>{text(head.under)}</small>" if head.under else ""
    style = ' class="n"' if head.number else ""
    return f'<th scope="col"{style}>{text(head.name)}{under}</th>'


def _cell(found: Cell, head: Head, *, first: bool) -> str:
    key = "" if found.key is None else f' data-k="{text(found.key)}"'
    if first:
        return f'<th scope="row"{key}>{found.html}</th>'
    style = ' class="n"' if head.number else ""
    return f"<td{style}{key}>{found.html}</td>"
