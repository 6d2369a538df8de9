"""The head of a bundle's section: which variant to ship, four figures of it, and the picture of the choice.

What is recommended, and the sentences, come from `edgekit.reporting.advice`.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.reporting import advice, number_text
from edgekit.reporting.advice import Contender, Verdict
from edgekit.reporting.html_parts import prose, text
from edgekit.reporting.record import Row
from edgekit.reporting.row_groups import Group

# Scenario -> the quantity that decides, and its name.
DECIDES = {
    "single-stream": ("latency", "Latency per input"),
    "offline": ("throughput", "Throughput"),
    "llm": ("tpot", "Time per token"),
    "stream": ("step", "Time per step"),
}
Tile = tuple[str, str, str]  # name, value, note


def hero(group: Group) -> Iterator[str]:
    """What to ship, for each device that the bundle was measured on."""
    for device, verdict in group.verdicts:
        where = f"{text(device)}: " if device else ""
        if verdict.best is None:
            yield f'<div class="hero"><p class="ship">{where}Ship no variant yet</p><p>{prose(verdict.words)}</p></div>'
            continue
        best = verdict.best
        yield f'<div class="hero"><p class="ship">{where}Ship {text(short(best))} {_confidence(best)}</p>'
        yield f'<p class="soft">{text(best.variant)}, {text(number_text.setting(best.rows[0]))}</p>'
        yield f'<div class="tiles">{"".join(map(_tile, _tiles(best, verdict)))}</div>'
        if verdict.runner_up:
            yield f"<p>{prose(verdict.runner_up)}</p>"
        yield f"<details><summary>All reasons</summary><p>{prose(verdict.words)}</p></details></div>"


def headline(verdict: Verdict) -> str:
    """One line about the variant to ship, for the table of contents."""
    best = verdict.best
    if best is None:
        return "ship no variant yet"
    size = f", {number_text.size(best.bytes)}" if best.bytes is not None else ""
    return f"ship {short(best)}: {advice.speed(best)}{size}"


def short(one: Contender) -> str:
    """A variant as people say it: `cpu · int8`."""
    row = one.rows[0]
    return f"{number_text.cut(row.target, 40)} · {number_text.cut(row.precision, 40)}"


def _tiles(best: Contender, verdict: Verdict) -> Iterator[Tile]:
    row, base = best.rows[0], verdict.baseline
    quantity, name = DECIDES[row.scenario]
    unit = row.figures[quantity].unit if quantity in row.figures else ""
    faster = advice.times(best.cost, base.cost, "faster", "slower", "as fast") if base else ""
    yield name, number_text.quantity(best.median(quantity), unit), _against(faster, base)
    smaller = advice.times(best.bytes, base.bytes, "smaller", "larger", "as large") if base else ""
    yield "Size on disk", number_text.size(best.bytes), _against(smaller, base)
    peaks = [advice.middle(one.rows, _peak) if one else None for one in (best, base)]
    less = advice.times(peaks[0], peaks[1], "less", "more", "as much")
    yield "Peak memory", number_text.size(peaks[0]), _against(less, base)
    yield _quality(best)


def _peak(row: Row) -> float | None:
    return row.memory.peak_rss if row.memory else None


def _against(ratio: str, base: Contender | None) -> str:
    """`2.5 times faster than fp32`."""
    if not ratio or base is None:
        return ""
    joint = "as" if ratio.startswith("as ") else "than"
    return f"{ratio} {joint} {number_text.cut(base.rows[0].precision, 40)}"


def _quality(best: Contender) -> Tile:
    quality, accuracy, row = best.quality, best.accuracy, best.rows[0]
    if quality is None:
        return "Quality", number_text.DASH, "outputs were not compared"
    if accuracy is not None:
        lost = "" if accuracy.trained is None else f"{number_text.share(accuracy.trained)} before the export"
        return quality.metric.capitalize(), number_text.share(accuracy.value), lost
    measure = row.check.agreement if row.check else None
    near = number_text.near(measure.value) if measure else number_text.DASH
    samples = f" on {number_text.count(row.goldens, 'known input')}" if row.goldens else ""
    lost = "" if quality.loss is None else f"loss {number_text.figure(quality.loss)} against the reference{samples}"
    return quality.metric.capitalize(), near, lost


def _tile(tile: Tile) -> str:
    name, value, note = tile
    return f'<div class="tile"><span>{text(name)}</span><strong>{text(value)}</strong><small>{text(note)}</small></div>'


def _confidence(best: Contender) -> str:
    """A mark: whether the figures can be relied on."""
    if best.disturbed:
        return '<span class="badge warn">⚠ disturbed: measure again</span>'
    if any(row.warmup and not row.warmup.settled for row in best.counted):
        return '<span class="badge warn">⚠ no steady state</span>'
    return '<span class="badge good">✓ solid</span>'
