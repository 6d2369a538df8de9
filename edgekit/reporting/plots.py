"""Which figures of a bundle are drawn, and how: rows in, figures of a page out.

Chooses units and words; `edgekit.reporting.svg` and `edgekit.reporting.bars` draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.reporting import advice, bars, html_parts, number_text, svg
from edgekit.reporting.bars import drawable
from edgekit.reporting.record import QUANTITIES, Figure
from edgekit.reporting.row_groups import Entry, Group

PLOTTED = 8  # rows in one plot
BLOCKS = 5  # processes in the plot of memory
ABOUT = 800  # letters of what a plot says to who cannot see it
DISTRIBUTION = {"single-stream": "latency", "stream": "step", "llm": "itl"}
SPREAD = {"latency": "an input", "step": "a step", "itl": "between two tokens"}


def plots(key: str, group: Group) -> Iterator[str]:
    """Every plot that the figures of a bundle carry. `key` makes ids unique on the page."""
    deciding = group.of(group.scenarios[0])
    accuracy = _accuracy(f"{key}-accuracy", group, deciding)
    if group.scenarios[0] != "llm":  # whose TTFT and TPOT stand side by side
        yield from accuracy
    for scenario in group.scenarios:
        entries = [entry for entry in group.of(scenario) if not entry.row.invalid]
        if scenario == "llm":
            yield from _bars(f"{key}-ttft", group, entries, "ttft", "To the first token (TTFT)", "Less is better.")
            yield from _bars(f"{key}-tpot", group, entries, "tpot", "Each further token (TPOT)", "Less is better.")
            yield from _roofline(f"{key}-roof", group, entries)
        if quantity := DISTRIBUTION.get(scenario):
            yield from _distribution(f"{key}-{quantity}", group, entries, quantity)
        if scenario == "offline":
            title, text = "Many at a time", "More is better."
            yield from _bars(f"{key}-many", group, entries, "throughput", title, text)
    yield from _memory(f"{key}-memory", group, [entry for entry in deciding if entry.row.memory])
    yield from _sustained(f"{key}-sustained", group)
    yield from accuracy


def _accuracy(key: str, group: Group, entries: Sequence[Entry]) -> Iterator[str]:
    """Of valid and invalid ones: a wrong answer is what this shows."""
    found = [(entry, entry.accuracy, advice.cost(entry.row)) for entry in entries]
    known = [(entry, met, cost) for entry, met, cost in found if met and cost is not None and drawable(cost)]
    if not known:
        return
    factor, unit = _unit([cost for _, _, cost in known])
    dots = [
        svg.Dot(
            *(
                group.label(entry),
                number_text.size(entry.row.bytes),
                cost * factor,
                met.value * 100,
                entry.row.bytes or 0,
            ),
            *(entry.series, entry.hollow),
        )
        for entry, met, cost in known[:PLOTTED]
    ]
    about = "; ".join(f"{dot.name}: {number_text.figure(dot.x)} {unit}, {dot.y:.1f} %, {dot.note}" for dot in dots)
    metric = svg.clip(number_text.cut(known[0][1].metric.replace("_", " ")), 40)
    what = {"llm": "an answer", "stream": "a step", "offline": "an item"}.get(group.scenarios[0], "an input")
    names = (f"median {unit} for {what}", f"{metric}, %")
    picture = svg.scatter(key, _title("Accuracy against latency", group), about[:ABOUT], dots, *names, y_most=100)
    text = "Up and to the left is better. The area of a dot is the size on disk; hollow dots are not quantized."
    yield html_parts.figure("Accuracy, latency, size", picture, text, len(known) - PLOTTED)


def _distribution(key: str, group: Group, entries: Sequence[Entry], quantity: str) -> Iterator[str]:
    found = [(entry, figure) for entry, figure in _have(entries, quantity) if any(map(drawable, figure.values))]
    if not found:
        return
    factor, unit = _unit([figure.median for _, figure in found])
    noun = "gap" if quantity == "itl" else "step" if quantity == "step" else "run"
    rows = [_strip(group, entry, figure, factor, noun) for entry, figure in found[:PLOTTED]]
    about = "; ".join(f"{row.name}: {row.note}" for row in rows)
    title = _title(f"Distribution of {number_text.QUANTITY[quantity]}", group)
    picture = svg.strips(key, title, about[:ABOUT], rows, f"{unit} {SPREAD[quantity]}, by powers of ten")
    text = f"A dot is a {noun} (at most {svg.SHOWN} are drawn); the box holds the middle half, the tick is the median."
    name = number_text.QUANTITY[quantity]
    yield html_parts.figure(f"{name[:1].upper()}{name[1:]}, one by one", picture, text, len(found) - PLOTTED)


def _strip(group: Group, entry: Entry, figure: Figure, factor: float, noun: str) -> svg.Strip:
    values = [value * factor for value in figure.values if drawable(value)]
    ordered = sorted(values)
    box = (ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]) if len(ordered) >= 8 else None
    note = f"{number_text.seconds(figure.median)}, {number_text.count(figure.n, noun)}"
    return svg.Strip(group.label(entry), note, values, box, entry.series, entry.hollow)


def _bars(key: str, group: Group, entries: Sequence[Entry], quantity: str, title: str, text: str) -> Iterator[str]:
    found = [(entry, figure) for entry, figure in _have(entries, quantity) if drawable(figure.median)]
    if not found:
        return
    is_time = QUANTITIES[quantity][0] == "s"
    factor, unit = _unit([figure.median for _, figure in found]) if is_time else (1.0, "items a second")
    rows = []
    for entry, figure in found[:PLOTTED]:
        whisker = None
        if figure.low is not None and figure.high is not None and drawable(figure.high):
            whisker = figure.low * factor, figure.high * factor
        note = number_text.quantity(figure.median, figure.unit)
        rows.append(bars.Bar(group.label(entry), note, figure.median * factor, whisker, entry.series, entry.hollow))
    about = "; ".join(f"{row.name}: {row.note}" for row in rows)
    picture = bars.bars(key, _title(title, group), about[:ABOUT], rows, f"{unit}, median")
    whiskers = " The line at a bar's end is the 95 % interval of the median."
    caption = text + (whiskers if any(row.interval for row in rows) else "")
    yield html_parts.figure(title, picture, caption, len(found) - PLOTTED)


def _roofline(key: str, group: Group, entries: Sequence[Entry]) -> Iterator[str]:
    """Of what is read from the machine's own memory; a device's has another bandwidth."""
    here = [entry for entry in entries if entry.bandwidth and not (entry.row.memory and entry.row.memory.device)]
    known = [
        (entry, rate, read)
        for entry in here
        if (rate := entry.median("decode")) is not None and drawable(rate)
        if (read := entry.row.bytes_per_token) and drawable(read)
    ]
    if not known:
        return
    dots = [
        svg.Dot(
            name=group.label(entry),
            note=f"{number_text.share(rate * read / (entry.bandwidth or 1))} of the bandwidth",
            x=read / 1e6,
            y=rate,
            size=1,
            series=entry.series,
            hollow=entry.hollow,
        )
        for entry, rate, read in known[:PLOTTED]
    ]
    roofs = sorted({entry.bandwidth / 1e6 for entry in here if entry.bandwidth})
    about = "; ".join(
        f"{dot.name}: {number_text.figure(dot.y)} tokens/s at {number_text.figure(dot.x)} MB" for dot in dots
    )
    picture = svg.scatter(
        *(key, _title("Roofline", group), about[:ABOUT], dots),
        *("MB read for a token, by powers of ten", "tokens a second"),
        roofs=roofs,
    )
    measured = number_text.joined([f"{number_text.size(roof * 1e6)}/s" for roof in roofs])
    text = (
        f"The dashed line is what memory read at {measured}, as measured here, allows: the nearer a dot, the less is "
        "left to gain but by reading less. What fits into a cache may lie above it."
    )
    yield html_parts.figure("Against the memory's bandwidth (roofline)", picture, text, len(known) - PLOTTED)


def _memory(key: str, group: Group, entries: Sequence[Entry]) -> Iterator[str]:
    blocks = []
    for entry in entries[:BLOCKS]:
        memory = entry.row.memory
        phases = [
            (phase.name, (phase.uss or 0) / 1e6, max(phase.rss or 0, phase.uss or 0) / 1e6)
            for phase in (memory.phases if memory else ())
            if phase.rss is not None and phase.rss < 1e18
        ]
        if memory is None or not phases:
            continue
        peak, forecast = memory.peak_rss, memory.forecast
        note = number_text.size(peak) + (f", forecast {number_text.size(forecast.total)}" if forecast else "")
        expected = forecast.total / 1e6 if forecast and drawable(forecast.total) else None
        most = peak / 1e6 if peak and drawable(peak) else None
        blocks.append(bars.Block(group.label(entry), note, phases, most, expected, entry.series, entry.hollow))
    if not blocks:
        return
    about = "; ".join(f"{block.name}: {block.note}" for block in blocks)
    picture = bars.phases(key, _title("Memory by phase", group), about[:ABOUT], blocks, "MB")
    text = (
        "Full: what the process has alone (USS). Pale: all that it maps (RSS), files that others may share included. "
        "The tick is its peak, the dashed line the forecast made before it ran. A bar that is all pale is known as a "
        "whole only."
    )
    yield html_parts.figure("Memory by phase", picture, text, len(entries) - BLOCKS)


def _sustained(key: str, group: Group) -> Iterator[str]:
    courses = []
    for entry in [entry for entry in group.entries if entry.row.sustained][: 2 * PLOTTED]:
        found = entry.row.sustained
        rates = [rate for rate in found.rates if rate == 0 or drawable(rate)] if found else []
        if found and rates and max(rates) > 0 and drawable(found.seconds):
            first, last = rates[0], rates[-1]
            told = f" ({number_text.change(last / first)})" if first else ""
            note = f"{number_text.figure(first)} → {number_text.figure(last)}{told}"
            courses.append(
                (found.unit, bars.Course(group.label(entry), note, found.seconds, rates, entry.series, entry.hollow))
            )
    for number, unit in enumerate(dict.fromkeys(unit for unit, _ in courses)):
        same = [course for one, course in courses if one == unit]
        about = "; ".join(f"{course.name}: {course.note} {unit}" for course in same)
        title, names = _title("Sustained throughput", group), ("seconds", svg.clip(number_text.cut(unit)))
        picture = bars.courses(f"{key}{number}", title, about[:ABOUT], same[:PLOTTED], *names)
        text = "Throughput in windows, one after the other: a falling line is a processor that throttles, or company."
        yield html_parts.figure("Sustained throughput", picture, text, len(same) - PLOTTED)


def _have(entries: Sequence[Entry], quantity: str) -> list[tuple[Entry, Figure]]:
    return [(entry, figure) for entry in entries if (figure := entry.figure(quantity)) is not None]


def _unit(values: Sequence[float]) -> tuple[float, str]:
    """What makes these seconds readable on one axis."""
    middle = sorted(values)[len(values) // 2]
    return next(
        ((by, unit) for least, by, unit in ((1.0, 1.0, "s"), (1e-4, 1e3, "ms")) if middle >= least), (1e6, "µs")
    )


def _title(what: str, group: Group) -> str:
    return number_text.cut(f"{what} of {group.bundle}")
