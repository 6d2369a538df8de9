"""Parts of HTML: escaped text, sortable tables, figures. Knows no record.

All text from outside goes through `text` or `prose`, which escape it, cut it and remove invisible characters.
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
    """A table cell. `html` is inserted unchanged; `key` is the sort key, None for no value."""

    html: str
    key: float | str | None = None

    @property
    def empty(self) -> bool:
        return self.html == number_text.DASH


@dataclass(frozen=True)
class Head:
    """A column's head: its name, and a note under it in small letters."""

    name: str
    under: str = ""
    number: bool = True


@dataclass(frozen=True)
class Line:
    """A line of a table; the first cell is its name."""

    cells: tuple[Cell, ...]
    style: str = ""


def text(value: Any) -> str:
    """A value as HTML: escaped, cut to a limit, a dash for None and NaN."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return escape(number_text.cut(None if missing else value))


def prose(value: str) -> str:
    """A paragraph as HTML: as `text`, with a larger limit."""
    return escape(number_text.cut(value, number_text.PROSE))


def cell(value: Any, key: float | str | None = None) -> Cell:
    """A cell of plain text."""
    finite = key if not isinstance(key, float) or math.isfinite(key) else None
    return Cell(text(value), finite)


def table(name: str, heads: Sequence[Head], lines: Sequence[Line], *, most: int = MOST_ROWS) -> Iterator[str]:
    """A sortable table without its empty columns. `name`: the label for screen readers.

    On a narrow screen each line becomes a card, in which every value has its column's name (`data-l`).
    """
    first_lines = lines[:most]
    columns = [at for at in range(len(heads)) if at == 0 or any(not line.cells[at].empty for line in first_lines)]
    yield f'<div class="frame" role="region" aria-label="{text(name)}"><table class="sortable">'
    yield f"<thead><tr>{''.join(_head(heads[at]) for at in columns)}</tr></thead><tbody>"
    for line in first_lines:
        style = f' class="{line.style}"' if line.style else ""
        cells = "".join(_cell(line.cells[at], heads[at], first=at == 0) for at in columns)
        yield f"<tr{style}>{cells}</tr>"
    yield "</tbody></table></div>"
    yield more(len(lines) - most, "row")


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A list of names and values."""
    return f'<dl class="facts">{"".join(f"<dt>{text(a)}</dt><dd>{prose(b)}</dd>" for a, b in pairs)}</dl>'


def figure(title: str, picture: str, caption: str, left: int = 0) -> str:
    """A plot with its title and caption. `left`: number of rows that it does not show."""
    rest = more(left, "row")
    return f"<figure><h4>{text(title)}</h4>{picture}<figcaption>{prose(caption)}</figcaption>{rest}</figure>"


def more(number: int, noun: str) -> str:
    """A line about items that are not shown; "" if there are none."""
    if number <= 0:
        return ""
    verb = "is" if number == 1 else "are"
    more = number_text.count(number, f"more {noun}")
    return f'<p class="soft">{more} {verb} not shown. The JSON and the CSV have all of them.</p>'


def _head(head: Head) -> str:
    under = f"<br><small>{text(head.under)}</small>" if head.under else ""
    style = ' class="n"' if head.number else ""
    return f'<th scope="col"{style}>{text(head.name)}{under}</th>'


def _cell(content: Cell, head: Head, *, first: bool) -> str:
    key = "" if content.key is None else f' data-k="{text(content.key)}"'
    if first:
        return f'<th scope="row"{key}>{content.html}</th>'
    style = ' class="n"' if head.number else ""
    label = " ".join(filter(None, (head.name, head.under)))
    return f'<td{style}{key} data-l="{text(label)}"><span>{content.html}</span></td>'
