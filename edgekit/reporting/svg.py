"""Plots as SVG text: scatter plots with labels that do not overlap, and strips of single runs.

They are 380 units wide, so that text has its normal size on a telephone. Colours are classes (`s0` to `s5`, `hollow`)
and variables of the page's style. Knows numbers and names, not what they mean; escapes every text.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from edgekit.reporting.number_text import visible

WIDTH = 380
LEFT, RIGHT = 46, 12  # of the frame
LETTER = 7.2  # mean width of a letter of a label, in the widest common font
SMALL = 6.5  # mean width of a letter of a note, which is not bold
LINE = 12
LONGEST = 24  # letters of a label
SHOWN = 240  # dots of a strip
SERIES = 6

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Coloured(Protocol):
    @property
    def series(self) -> int: ...
    @property
    def hollow(self) -> bool: ...


@dataclass(frozen=True)
class Dot:
    """A dot of a scatter plot. `size` sets its area, `series` its colour; `note` is under the name."""

    name: str
    note: str
    x: float
    y: float
    size: float
    series: int
    hollow: bool


@dataclass(frozen=True)
class Strip:
    """The runs of one row. `middle`: the ends of the box; a tick shows the median."""

    name: str
    note: str
    values: Sequence[float]
    middle: tuple[float, float] | None
    series: int
    hollow: bool


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to pixels from `start` to `end`, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values in the range, four to seven of them if possible."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                values = [digit * 10.0**decade for decade in decades for digit in digits]
                inside = [value for value in values if self.low <= value <= self.high]
                if len(inside) <= 7:
                    return inside
            return inside[:: len(inside) // 4]
        step = _step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scatter(
    key: str,
    title: str,
    about: str,
    dots: Sequence[Dot],
    x_name: str,
    y_name: str,
    *,
    y_most: float = math.inf,
    narrow: float = 1.0,
    roofs: Sequence[float] = (),
) -> str:
    """A scatter plot. x begins at zero; y covers the values, without labels above `y_most`. `key` makes ids unique.

    `narrow`: room above and below the values at least, so that noise stays small.

    With `roofs` both axes are logarithmic, and each roof is drawn as the line x * y = roof: an upper limit.
    """
    top, bottom, height = 24, 218, 254
    x_values, y_values = [dot.x for dot in dots], [dot.y for dot in dots]
    if roofs:
        xs = Scale(min(x_values) / 2, max(x_values) * 2, LEFT, WIDTH - RIGHT, log=True)
        reached = [*y_values, *(roof / x for roof in roofs for x in x_values)]
        ys = Scale(min(reached) / 2, max(reached) * 2, bottom, top, log=True)
    else:
        xs = from_zero(x_values, LEFT, WIDTH - RIGHT)
        ys = _around(y_values, bottom, top, narrow)
    parts = [_roof(roof, xs, ys) for roof in roofs]
    parts += [f'<text class="t" x="4" y="12">{escaped(y_name)}</text>', *x_axis(xs, top, bottom, x_name)]
    for tick in (tick for tick in ys.ticks() if tick <= y_most):
        y = ys.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="t end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
    largest = max((dot.size for dot in dots), default=1) or 1
    most = 6 if roofs else 15
    placed = [(xs.at(d.x), ys.at(d.y), max(4.0, most * math.sqrt(d.size / largest)), d) for d in dots]
    taken: list[Box] = [(x - r - 3, y - r - 3, x + r + 3, y + r + 3) for x, y, r, _ in placed]
    for x, y, radius, dot in placed:
        tip = f"<title>{escaped(clip(dot.name, 80))}: {escaped(clip(dot.note))}</title>"
        parts.append(f'<circle class="{colour(dot)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{tip}</circle>')
    for x, y, radius, dot in placed:
        name, note = clip(dot.name), clip(dot.note)
        box = _free_place(x, y, radius, max(len(name), len(note)) * LETTER, taken, (LEFT, top, WIDTH - RIGHT, bottom))
        taken.append(box)
        parts += _label(box, (x, y), radius, name, note)
    return drawing(key, title, about, height, parts)


def strips(key: str, title: str, about: str, rows: Sequence[Strip], x_name: str) -> str:
    """One strip of runs per row, with its name above it. The axis is logarithmic: slow runs are far from the median."""
    top, step = 4, 50
    bottom = top + step * len(rows)
    values = [value for row in rows for value in row.values]
    xs = Scale(min(values) / 1.1, max(values) * 1.1, 10, WIDTH - 10, log=True)
    parts = list(x_axis(xs, top, bottom, x_name))
    for number, row in enumerate(rows):
        y = top + step * number
        parts += titled(row.name, row.note, y + 13)
        parts.append(_dots(row, xs, y + 31))
        if row.middle:
            low, high = map(xs.at, row.middle)
            parts.append(
                f'<rect class="box" x="{low:.1f}" y="{y + 23}" width="{max(high - low, 0.5):.1f}" height="16"/>'
            )
        parts.append(f'<path class="mark" d="M{xs.at(statistics.median_low(row.values)):.1f} {y + 21}v20"/>')
    return drawing(key, title, about, bottom + 36, parts)


def clip(text: str, most: int = LONGEST) -> str:
    """`text` of at most `most` letters. The middle is left out: variants differ at both ends."""
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def titled(name: str, note: str, y: float, left: float = 10) -> Iterator[str]:
    """A line of text above a strip or bar: the name on the left, cut where it would meet the note on the right."""
    room = WIDTH - 10 - left - (len(note) + 1) * SMALL
    yield f'<text class="name" x="{left:g}" y="{y:g}">{escaped(clip(name, max(int(room / LETTER), 3)))}</text>'
    yield f'<text class="t end" x="{WIDTH - 10}" y="{y:g}">{escaped(note)}</text>'


def escaped(text: str) -> str:
    """Text as SVG: escaped, without invisible characters."""
    return escape(visible(text))


def swatch(series: int, hollow: bool) -> str:
    """A small dot in the colour of a series, for tables."""
    style = f"s{series % SERIES}{' hollow' if hollow else ''}"
    circle = f'<circle class="{style}" cx="6" cy="6" r="4"/>'
    return f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true">{circle}</svg>'


def drawing(key: str, title: str, about: str, height: float, parts: Sequence[str]) -> str:
    """The whole SVG, with a title and a description for screen readers."""
    key = escaped(key)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escaped(title)}</title><desc id="{key}-d">{escaped(about)}</desc>{"".join(parts)}</svg>'
    )


def x_axis(scale: Scale, top: float, bottom: float, name: str) -> Iterator[str]:
    """The x axis with its grid lines, labels and name."""
    for tick in scale.ticks():
        x = scale.at(tick)
        yield f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        half = len(f"{tick:g}") * LETTER / 2
        yield f'<text class="t mid" x="{min(x, WIDTH - half):.1f}" y="{bottom + 15}">{tick:g}</text>'
    yield f'<path class="axis" d="M{scale.start} {bottom}H{scale.end}"/>'
    yield f'<text class="t mid" x="{(scale.start + scale.end) / 2:g}" y="{bottom + 31}">{escaped(name)}</text>'


def _roof(roof: float, xs: Scale, ys: Scale) -> str:
    """The part of a roof inside the frame: a straight line, as both axes are logarithmic."""
    low, high = max(xs.low, roof / ys.high), min(xs.high, roof / ys.low)
    if low >= high:
        return ""
    ends = [f"{xs.at(x):.1f} {ys.at(roof / x):.1f}" for x in (low, high)]
    return f'<path class="forecast" d="M{ends[0]}L{ends[1]}"/>'


def _label(box: Box, at: tuple[float, float], radius: float, name: str, note: str) -> Iterator[str]:
    """Name and note in their box, with a line to the dot if the box is far from it."""
    left, top, right, bottom = box
    x, y = at
    near_x, near_y = min(max(x, left), right), min(max(y, top), bottom)
    away = math.hypot(near_x - x, near_y - y)
    if away > radius + 10:
        start_x, start_y = x + (near_x - x) * radius / away, y + (near_y - y) * radius / away
        yield f'<path class="axis" d="M{start_x:.1f} {start_y:.1f}L{near_x:.1f} {near_y:.1f}"/>'
    side, anchor = (" end", right) if x > right else ("", left)
    if left <= x <= right:
        side, anchor = " mid", (left + right) / 2
    yield f'<text class="name{side}" x="{anchor:.1f}" y="{top + 10:.1f}">{escaped(name)}</text>'
    yield f'<text class="t{side}" x="{anchor:.1f}" y="{top + 10 + LINE:.1f}">{escaped(note)}</text>'


def _free_place(x: float, y: float, radius: float, width: float, taken: Sequence[Box], frame: Box) -> Box:
    """The first place around a dot where a label overlaps nothing; else the place with the least overlap."""
    tall = 2 * LINE + 2
    places: list[Box] = []
    for far in (4, 16, 32, 52, 76, 104):
        reach = radius + far
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)):
            middle_x, middle_y = x + dx * (reach + width / 2 if dy == 0 else reach + width / 2 - radius), y
            middle_y += dy * (reach + tall / 2)
            middle_x = min(max(middle_x, frame[0] + width / 2), frame[2] - width / 2)
            middle_y = min(max(middle_y, frame[1] + tall / 2), frame[3] - tall / 2)
            places.append((middle_x - width / 2, middle_y - tall / 2, middle_x + width / 2, middle_y + tall / 2))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Box, b: Box) -> float:
    """The area of the intersection of two boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _dots(row: Strip, xs: Scale, y: float) -> str:
    """At most `SHOWN` runs, evenly spaced by rank from the fastest to the slowest, spread in height."""
    ordered = sorted(row.values)
    count = min(len(ordered), SHOWN)
    picked = [ordered[round(number * (len(ordered) - 1) / max(count - 1, 1))] for number in range(count)]
    golden = (math.sqrt(5) - 1) / 2  # its multiples, modulo one, are evenly spread for any count
    path = "".join(f"M{xs.at(value):.1f} {y + ((n * golden) % 1 - 0.5) * 13:.1f}h0" for n, value in enumerate(picked))
    return f'<path class="{colour(row)} dots" d="{path}"/>'


def colour(item: Coloured) -> str:
    """The CSS classes of an item's series."""
    return f"s{item.series % SERIES}{' hollow' if item.hollow else ''}"


def from_zero(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from zero to a round number above the largest value."""
    largest = max(values, default=0) or 1
    step = _step(largest * 1.08 / 4)
    return Scale(0, math.ceil(largest * 1.08 / step) * step, start, end)


def _around(values: Sequence[float], start: float, end: float, narrow: float) -> Scale:
    """A scale around the values with room at both ends, at least `narrow`."""
    low, high = min(values, default=0), max(values, default=1)
    room = max((high - low) * 0.35, narrow) or 1.0
    step = _step((high - low + 2 * room) / 4)
    return Scale(math.floor((low - room) / step) * step, math.ceil((high + room) / step) * step, start, end)


def _step(rough: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below a positive number."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((digit * power for digit in (1, 2, 5) if rough <= digit * power * (1 + 1e-9)), 10 * power)
