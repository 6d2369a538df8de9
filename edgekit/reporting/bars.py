"""Three more plots as SVG text: bars with their intervals, memory phase by phase, and what happened over time.

Like `edgekit.reporting.svg`, from which the axes come: numbers and names, not what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.reporting.svg import LEFT, RIGHT, WIDTH, Scale, clip, colour, drawing, from_zero, written, x_axis

NAME = 34  # letters of a name that has a line for itself and a note
PHASE_LEFT = 74  # where the bars of phases begin: the longest phase's name stands before them


@dataclass(frozen=True)
class Bar:
    """`interval` is drawn as a whisker."""

    name: str
    note: str
    value: float
    interval: tuple[float, float] | None
    series: int
    hollow: bool


@dataclass(frozen=True)
class Block:
    """One process: `phases` are (name, own memory, all memory); a dashed line at `forecast`, a tick at `peak`."""

    name: str
    note: str
    phases: Sequence[tuple[str, float, float]]
    peak: float | None
    forecast: float | None
    series: int
    hollow: bool


@dataclass(frozen=True)
class Course:
    """Values one after the other, `step` apart."""

    name: str
    note: str
    step: float
    values: Sequence[float]
    series: int
    hollow: bool


def bars(key: str, title: str, about: str, rows: Sequence[Bar], x_name: str) -> str:
    """From zero, so that a length is a ratio; names above the bars."""
    top, step = 4, 36
    bottom = top + step * len(rows)
    xs = from_zero([max(row.value, (row.interval or (0, 0))[1]) for row in rows], 10, WIDTH - 10)
    parts = list(x_axis(xs, top, bottom, x_name))
    for number, row in enumerate(rows):
        y = top + step * number
        end = xs.at(row.value)
        parts += _named(row.name, row.note, y + 13)
        parts.append(
            f'<rect class="{colour(row)} bar" x="10" y="{y + 19}" width="{max(end - 10, 0.5):.1f}" height="11"/>'
        )
        if row.interval:
            low, high = map(xs.at, row.interval)
            parts.append(
                f'<path class="mark" d="M{low:.1f} {y + 24.5}H{high:.1f}M{low:.1f} {y + 21}v7M{high:.1f} {y + 21}v7"/>'
            )
    return drawing(key, title, about, bottom + 36, parts)


def phases(key: str, title: str, about: str, blocks: Sequence[Block], x_name: str) -> str:
    """A bar for each phase: what the process has alone is full, the rest of what it maps is pale."""
    line = 13
    heights = [24 + line * len(block.phases) for block in blocks]
    bottom = 4 + sum(heights)
    most = [v for b in blocks for v in (*(size for _, _, size in b.phases), b.peak or 0, b.forecast or 0)]
    xs = from_zero(most, PHASE_LEFT, WIDTH - 10)
    parts = list(x_axis(xs, 4, bottom, x_name))
    y = 4
    for block, height in zip(blocks, heights):
        parts += _named(block.name, block.note, y + 13)
        for number, (name, own, whole) in enumerate(block.phases):
            at = y + 20 + line * number
            parts.append(f'<text class="t end" x="{PHASE_LEFT - 5}" y="{at + 8}">{written(name)}</text>')
            for style, value in (("pale", whole), ("bar", own)):
                width = max(xs.at(value) - PHASE_LEFT, 0.0)
                box = f'x="{PHASE_LEFT}" y="{at}" width="{width:.1f}" height="9"'
                parts.append(f'<rect class="s{block.series} {style}" {box}/>')
        for style, size in (("forecast", block.forecast), ("mark", block.peak)):
            if size:
                parts.append(f'<path class="{style}" d="M{xs.at(size):.1f} {y + 17}V{y + height - 1}"/>')
        y += height
    return drawing(key, title, about, bottom + 36, parts)


def courses(key: str, title: str, about: str, found: Sequence[Course], x_name: str, y_name: str) -> str:
    """Lines over time, their names above; from zero upwards, so that a fall is seen at its size."""
    top = 12 + 15 * len(found) + 14
    bottom = top + 170
    longest = max(course.step * len(course.values) for course in found)
    xs = Scale(0, longest, LEFT, WIDTH - RIGHT)
    ys = from_zero([value for course in found for value in course.values], bottom, top)
    parts = [f'<text class="t" x="4" y="{top - 6}">{written(y_name)}</text>', *x_axis(xs, top, bottom, x_name)]
    for tick in ys.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {ys.at(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="t end" x="{LEFT - 6}" y="{ys.at(tick) + 4:.1f}">{tick:g}</text>')
    for number, course in enumerate(found):
        y = 12 + 15 * number
        points = [(xs.at((at + 0.5) * course.step), ys.at(value)) for at, value in enumerate(course.values)]
        path = "L".join(f"{x:.1f} {at:.1f}" for x, at in points)
        style = f"{colour(course)} course"
        parts.append(f'<path class="{style}" d="M10 {y - 4}h16"/>')
        parts += _named(course.name, course.note, y, left=32)
        parts.append(f'<path class="{style}" d="M{path}"/>')
    return drawing(key, title, about, bottom + 36, parts)


def _named(name: str, note: str, y: float, left: float = 10) -> Iterator[str]:
    yield f'<text class="name" x="{left:g}" y="{y:g}">{written(clip(name, NAME))}</text>'
    yield f'<text class="t end" x="{WIDTH - 10}" y="{y:g}">{written(clip(note, NAME))}</text>'


def drawable(value: float | None) -> bool:
    """Whether a value can stand on an axis beside others of its kind."""
    return value is not None and math.isfinite(value) and 1e-12 < value < 1e18
