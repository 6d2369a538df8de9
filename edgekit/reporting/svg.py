"""Plots as SVG text: dots on two axes with labels that keep apart, and a strip of runs per row on one axis.

Drawn 380 units wide, so that a telephone shows the text at its size. Colours are classes (`s0` to `s5`, `hollow`) and
variables of the page's style. Knows numbers and names, not what they mean; every text is escaped here.
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
LETTER = 7.2  # how wide a letter of a label is, on average, in the widest of the usual fonts
SMALL = 6.5  # the same of a note, which is not bold
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
    """`size` sets the area; `series` the colour; `note` stands under the name."""

    name: str
    note: str
    x: float
    y: float
    size: float
    series: int
    hollow: bool


@dataclass(frozen=True)
class Strip:
    """`middle` is the box, from one value to another; a tick shows the median."""

    name: str
    note: str
    values: Sequence[float]
    middle: tuple[float, float] | None
    series: int
    hollow: bool


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside, four to seven of them where the range allows."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [digit * 10.0**decade for decade in decades for digit in digits]
                inside = [value for value in found if self.low <= value <= self.high]
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
    roofs: Sequence[float] = (),
) -> str:
    """x begins at zero; y shows only what is used of it, and names nothing above `y_most`. `key` makes ids unique.

    With `roofs` both axes are logarithmic, and for each of them the line x * y = roof is drawn: what is beyond it
    cannot be.
    """
    top, bottom, height = 24, 218, 254
    x_values, y_values = [dot.x for dot in dots], [dot.y for dot in dots]
    if roofs:
        xs = Scale(min(x_values) / 2, max(x_values) * 2, LEFT, WIDTH - RIGHT, log=True)
        reached = [*y_values, *(roof / x for roof in roofs for x in x_values)]
        ys = Scale(min(reached) / 2, max(reached) * 2, bottom, top, log=True)
    else:
        xs = from_zero(x_values, LEFT, WIDTH - RIGHT)
        ys = _around(y_values, bottom, top)
    parts = [_roof(roof, xs, ys) for roof in roofs]
    parts += [f'<text class="t" x="4" y="12">{written(y_name)}</text>', *x_axis(xs, top, bottom, x_name)]
    for tick in (tick for tick in ys.ticks() if tick <= y_most):
        y = ys.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="t end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
    largest = max((dot.size for dot in dots), default=1) or 1
    most = 6 if roofs else 15
    placed = [(xs.at(d.x), ys.at(d.y), max(4.0, most * math.sqrt(d.size / largest)), d) for d in dots]
    taken: list[Box] = [(x - r - 3, y - r - 3, x + r + 3, y + r + 3) for x, y, r, _ in placed]
    for x, y, radius, dot in placed:
        tip = f"<title>{written(clip(dot.name, 80))}: {written(clip(dot.note))}</title>"
        parts.append(f'<circle class="{colour(dot)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{tip}</circle>')
    for x, y, radius, dot in placed:
        name, note = clip(dot.name), clip(dot.note)
        box = _free_place(x, y, radius, max(len(name), len(note)) * LETTER, taken, (LEFT, top, WIDTH - RIGHT, bottom))
        taken.append(box)
        parts += _label(box, (x, y), radius, name, note)
    return drawing(key, title, about, height, parts)


def strips(key: str, title: str, about: str, rows: Sequence[Strip], x_name: str) -> str:
    """One row per strip, its name above it; a logarithmic axis, as the slowest run is far from the median."""
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
    """`text` with its middle left out where it is too long: both ends tell variants apart."""
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def titled(name: str, note: str, y: float, left: float = 10) -> Iterator[str]:
    """A line above what it names: the name at its left, as much of it as the note at its right leaves room for."""
    room = WIDTH - 10 - left - (len(note) + 1) * SMALL
    yield f'<text class="name" x="{left:g}" y="{y:g}">{written(clip(name, max(int(room / LETTER), 3)))}</text>'
    yield f'<text class="t end" x="{WIDTH - 10}" y="{y:g}">{written(note)}</text>'


def written(text: str) -> str:
    """Text as a drawing may hold it."""
    return escape(visible(text))


def swatch(series: int, hollow: bool) -> str:
    """The dot of a series, to stand beside its name in a table."""
    style = f"s{series % SERIES}{' hollow' if hollow else ''}"
    circle = f'<circle class="{style}" cx="6" cy="6" r="4"/>'
    return f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true">{circle}</svg>'


def drawing(key: str, title: str, about: str, height: float, parts: Sequence[str]) -> str:
    key = written(key)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{written(title)}</title><desc id="{key}-d">{written(about)}</desc>{"".join(parts)}</svg>'
    )


def x_axis(scale: Scale, top: float, bottom: float, name: str) -> Iterator[str]:
    for tick in scale.ticks():
        x = scale.at(tick)
        yield f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        half = len(f"{tick:g}") * LETTER / 2
        yield f'<text class="t mid" x="{min(x, WIDTH - half):.1f}" y="{bottom + 15}">{tick:g}</text>'
    yield f'<path class="axis" d="M{scale.start} {bottom}H{scale.end}"/>'
    yield f'<text class="t mid" x="{(scale.start + scale.end) / 2:g}" y="{bottom + 31}">{written(name)}</text>'


def _roof(roof: float, xs: Scale, ys: Scale) -> str:
    """Straight, as both axes are logarithmic; only what of it lies in the frame."""
    low, high = max(xs.low, roof / ys.high), min(xs.high, roof / ys.low)
    if low >= high:
        return ""
    ends = [f"{xs.at(x):.1f} {ys.at(roof / x):.1f}" for x in (low, high)]
    return f'<path class="forecast" d="M{ends[0]}L{ends[1]}"/>'


def _label(box: Box, at: tuple[float, float], radius: float, name: str, note: str) -> Iterator[str]:
    """Name and note in their box, with a line to the dot where they had to go far."""
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
    yield f'<text class="name{side}" x="{anchor:.1f}" y="{top + 10:.1f}">{written(name)}</text>'
    yield f'<text class="t{side}" x="{anchor:.1f}" y="{top + 10 + LINE:.1f}">{written(note)}</text>'


def _free_place(x: float, y: float, radius: float, width: float, taken: Sequence[Box], frame: Box) -> Box:
    """The first place around a dot where a label touches nothing; else the one that touches least."""
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
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _dots(row: Strip, xs: Scale, y: float) -> str:
    """At most `SHOWN` runs, evenly by rank so that the fastest and the slowest are among them, strewn in height."""
    ordered = sorted(row.values)
    count = min(len(ordered), SHOWN)
    picked = [ordered[round(number * (len(ordered) - 1) / max(count - 1, 1))] for number in range(count)]
    golden = (math.sqrt(5) - 1) / 2  # multiples of it, modulo one, are spread evenly however many there are
    path = "".join(f"M{xs.at(value):.1f} {y + ((n * golden) % 1 - 0.5) * 13:.1f}h0" for n, value in enumerate(picked))
    return f'<path class="{colour(row)} dots" d="{path}"/>'


def colour(item: Coloured) -> str:
    """The classes of a thing that has a series."""
    return f"s{item.series % SERIES}{' hollow' if item.hollow else ''}"


def from_zero(values: Sequence[float], start: float, end: float) -> Scale:
    """From zero to a round number above the largest: a length is then a ratio."""
    largest = max(values, default=0) or 1
    step = _step(largest * 1.08 / 4)
    return Scale(0, math.ceil(largest * 1.08 / step) * step, start, end)


def _around(values: Sequence[float], start: float, end: float) -> Scale:
    """Only what is used of the axis, with room at both ends, and never so little that noise looks like a cliff."""
    low, high = min(values, default=0), max(values, default=1)
    room = max((high - low) * 0.35, 1.0)
    step = _step((high - low + 2 * room) / 4)
    return Scale(math.floor((low - room) / step) * step, math.ceil((high + room) / step) * step, start, end)


def _step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) at or above a positive one."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((digit * power for digit in (1, 2, 5) if rough <= digit * power * (1 + 1e-9)), 10 * power)
