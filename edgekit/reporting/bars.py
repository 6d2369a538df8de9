"""Three plots as SVG text: bars with intervals, memory by phase, and lines over time.

Knows numbers and names, not what they mean. The axes come from `edgekit.reporting.svg`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.reporting.svg import LEFT, RIGHT, WIDTH, Scale, colour, drawing, escaped, from_zero, titled, x_axis

PHASE_LEFT = 74  # x where the bars of phases begin: room for the longest phase name


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
    """Values over time, `step` seconds apart."""

    name: str
    note: str
    step: float
    values: Sequence[float]
    series: int
    hollow: bool


def bars(key: str, title: str, about: str, rows: Sequence[Bar], x_name: str) -> str:
    """Horizontal bars from zero, with the names above them."""
    top, step = 4, 36
    bottom = top + step * len(rows)
    xs = from_zero([max(row.value, (row.interval or (0, 0))[1]) for row in rows], 10, WIDTH - 10)
    parts = list(x_axis(xs, top, bottom, x_name))
    for number, row in enumerate(rows):
        y = top + step * number
        end = xs.at(row.value)
        parts += titled(row.name, row.note, y + 13)
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
    """A bar for each phase: the process's own memory is solid, shared memory is pale."""
    line = 13
    heights = [24 + line * len(block.phases) for block in blocks]
    bottom = 4 + sum(heights)
    most = [v for b in blocks for v in (*(size for _, _, size in b.phases), b.peak or 0, b.forecast or 0)]
    xs = from_zero(most, PHASE_LEFT, WIDTH - 10)
    parts = list(x_axis(xs, 4, bottom, x_name))
    y = 4
    for block, height in zip(blocks, heights):
        parts += titled(block.name, block.note, y + 13)
        for number, (name, own, whole) in enumerate(block.phases):
            at = y + 20 + line * number
            parts.append(f'<text class="t end" x="{PHASE_LEFT - 5}" y="{at + 8}">{escaped(name)}</text>')
            for style, value in (("pale", whole), ("bar", own)):
                width = max(xs.at(value) - PHASE_LEFT, 0.0)
                box = f'x="{PHASE_LEFT}" y="{at}" width="{width:.1f}" height="9"'
                parts.append(f'<rect class="{colour(block)} {style}" {box}/>')
        for style, size in (("forecast", block.forecast), ("mark", block.peak)):
            if size:
                parts.append(f'<path class="{style}" d="M{xs.at(size):.1f} {y + 17}V{y + height - 1}"/>')
        y += height
    return drawing(key, title, about, bottom + 36, parts)


def courses(key: str, title: str, about: str, lines: Sequence[Course], x_name: str, y_name: str) -> str:
    """Lines over time with their names above; the y axis begins at zero, so a fall is drawn to scale."""
    top = 12 + 15 * len(lines) + 20
    bottom = top + 170
    longest = max(course.step * len(course.values) for course in lines)
    xs = Scale(0, longest, LEFT, WIDTH - RIGHT)
    ys = from_zero([value for course in lines for value in course.values], bottom, top)
    parts = [f'<text class="t" x="4" y="{top - 11}">{escaped(y_name)}</text>', *x_axis(xs, top, bottom, x_name)]
    for tick in ys.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {ys.at(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="t end" x="{LEFT - 6}" y="{ys.at(tick) + 4:.1f}">{tick:g}</text>')
    for number, course in enumerate(lines):
        y = 12 + 15 * number
        points = [(xs.at((at + 0.5) * course.step), ys.at(value)) for at, value in enumerate(course.values)]
        path = "L".join(f"{x:.1f} {at:.1f}" for x, at in points)
        style = f"{colour(course)} course"
        parts.append(f'<path class="{style}" d="M10 {y - 4}h16"/>')
        parts += titled(course.name, course.note, y, left=32)
        parts.append(f'<path class="{style}" d="M{path}"/>')
    return drawing(key, title, about, bottom + 36, parts)


def drawable(value: float | None) -> bool:
    """Whether a value can be drawn on an axis: finite, positive, and not extreme."""
    return value is not None and math.isfinite(value) and 1e-12 < value < 1e18
