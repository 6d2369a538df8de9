"""The plots of a bundle: which figures are drawn, with titles, units and captions.

`edgekit.reporting.svg` and `edgekit.reporting.bars` draw them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgekit.reporting import advice, bars, html_parts, number_text, svg
from edgekit.reporting.bars import drawable
from edgekit.reporting.record import QUANTITIES, Figure
from edgekit.reporting.row_groups import Entry, Group

PLOTTED = 8  # rows in one plot
BLOCKS = 5  # processes in the plot of memory
ABOUT = 800  # letters of a plot's description for screen readers
DISTRIBUTION = {"single-stream": "latency", "stream": "step", "llm": "itl"}
APART = 0.001  # accuracies that differ by less are one line: sizes say more
SMALLER = "Better is down and to the left: smaller and faster"
PER = {"latency": "per input", "step": "per step", "itl": "between two tokens"}


def plots(key: str, group: Group) -> Iterator[str]:
    """All plots for which a bundle has figures. `key` makes ids unique on the page."""
    deciding = group.of(group.scenarios[0])
    for scenario in group.scenarios:
        entries = [entry for entry in group.of(scenario) if not entry.row.invalid]
        if scenario == "llm":
            yield from _bars(f"{key}-ttft", group, entries, "ttft", "Time to first token (TTFT)", "Lower is better.")
            yield from _bars(f"{key}-tpot", group, entries, "tpot", "Time per output token (TPOT)", "Lower is better.")
            yield from _roofline(f"{key}-roof", group, entries)
        if quantity := DISTRIBUTION.get(scenario):
            yield from _distribution(f"{key}-{quantity}", group, entries, quantity)
        if scenario == "offline":
            title, text = "Throughput in batches", "Higher is better."
            yield from _bars(f"{key}-many", group, entries, "throughput", title, text)
    yield from _memory(f"{key}-memory", group, [entry for entry in deciding if entry.row.memory])
    yield from _sustained(f"{key}-sustained", group)


def lead(key: str, group: Group) -> str:
    """The picture of the choice: accuracy against latency, or size where all are equally accurate; "" without figures.

    Invalid rows are included: this plot shows wrong outputs.
    """
    if not group.scenarios:
        return ""
    timed = [(entry, advice.cost(entry.row)) for entry in group.of(group.scenarios[0])]
    points = [(entry, cost) for entry, cost in timed if cost is not None and drawable(cost)]
    shares = [_share(entry) for entry, _ in points]
    if points and None not in shares and max(map(float, filter(None, shares)), default=0) - _least(shares) >= APART:
        return _lead(key, group, points, [(share or 0.0) * 100 for share in shares], _metric(points[0][0]))
    sized = [(entry, cost) for entry, cost in points if drawable(entry.row.bytes)]
    if not sized:
        return ""
    return _lead(key, group, sized, [(entry.row.bytes or 0) / 1e6 for entry, _ in sized], "")


def _least(shares: Sequence[float | None]) -> float:
    return min((share for share in shares if share is not None), default=0.0)


def _share(entry: Entry) -> float | None:
    """The task's metric, or the agreement with the reference: from 0 to 1, more is better. None if neither is known."""
    if entry.accuracy:
        return entry.accuracy.value
    measure = entry.row.check.agreement if entry.row.check else None
    if measure is None or number_text.compares_errors(measure.metric) or not 0 <= measure.value <= 1.001:
        return None
    return measure.value


def _metric(entry: Entry) -> str:
    name = entry.accuracy.metric if entry.accuracy else entry.row.check.agreement.metric if entry.row.check else ""
    return svg.clip(number_text.cut(name.replace("_", " ")), 40)


def _lead(key: str, group: Group, points: Sequence[tuple[Entry, float]], heights: Sequence[float], metric: str) -> str:
    """`metric`: what `heights` are shares of, in per cent; "" means that they are sizes in MB."""
    factor, unit = _unit([cost for _, cost in points])
    dots = [
        svg.Dot(
            name=group.label(entry),
            note=number_text.size(entry.row.bytes) if metric else number_text.seconds(cost),
            x=cost * factor,
            y=height,
            size=(entry.row.bytes or 0) if metric else 1,
            series=entry.series,
            hollow=entry.hollow,
        )
        for (entry, cost), height in list(zip(points, heights))[:PLOTTED]
    ]
    shown = f"{metric}, %" if metric else "MB on disk"
    about = "; ".join(f"{dot.name}: {number_text.figure(dot.x)} {unit}, {dot.y:.4g} {shown}" for dot in dots)
    item = {"llm": "answer", "stream": "step", "offline": "item"}.get(group.scenarios[0], "input")
    title = "Accuracy, latency, size" if metric else "Size and latency"
    places = (f"median {unit} per {item}", shown)
    most, narrow = (100.0, APART * 100) if metric else (math.inf, 0.0)
    picture = svg.scatter(key, _title(title, group), about[:ABOUT], dots, *places, y_most=most, narrow=narrow)
    better = "Better is up and to the left. The area of a dot is the size on disk" if metric else SMALLER
    return html_parts.figure(title, picture, f"{better}; hollow dots are not quantized.", len(points) - PLOTTED)


def _distribution(key: str, group: Group, entries: Sequence[Entry], quantity: str) -> Iterator[str]:
    samples = [(entry, figure) for entry, figure in _have(entries, quantity) if any(map(drawable, figure.values))]
    if not samples:
        return
    factor, unit = _unit([figure.median for _, figure in samples])
    noun = "gap" if quantity == "itl" else "step" if quantity == "step" else "run"
    rows = [_strip(group, entry, figure, factor, noun) for entry, figure in samples[:PLOTTED]]
    about = "; ".join(f"{row.name}: {row.note}" for row in rows)
    title = _title(f"Distribution of {number_text.QUANTITY[quantity]}", group)
    picture = svg.strips(key, title, about[:ABOUT], rows, f"{unit} {PER[quantity]} (log scale)")
    text = f"A dot is a {noun} (at most {svg.SHOWN} are drawn). The box is the middle half, the tick the median."
    name = "Inter-token latency (ITL)" if quantity == "itl" else number_text.QUANTITY[quantity]
    yield html_parts.figure(f"{name[:1].upper()}{name[1:]}, distribution", picture, text, len(samples) - PLOTTED)


def _strip(group: Group, entry: Entry, figure: Figure, factor: float, noun: str) -> svg.Strip:
    values = [value * factor for value in figure.values if drawable(value)]
    ordered = sorted(values)
    box = (ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]) if len(ordered) >= 8 else None
    note = f"{number_text.seconds(figure.median)}, {number_text.count(figure.n, noun)}"
    return svg.Strip(group.label(entry), note, values, box, entry.series, entry.hollow)


def _bars(key: str, group: Group, entries: Sequence[Entry], quantity: str, title: str, text: str) -> Iterator[str]:
    samples = [(entry, figure) for entry, figure in _have(entries, quantity) if drawable(figure.median)]
    if not samples:
        return
    is_time = QUANTITIES[quantity][0] == "s"
    factor, unit = _unit([figure.median for _, figure in samples]) if is_time else (1.0, "items/s")
    rows = []
    for entry, figure in samples[:PLOTTED]:
        whisker = None
        if figure.low is not None and figure.high is not None and drawable(figure.high):
            whisker = figure.low * factor, figure.high * factor
        note = number_text.quantity(figure.median, figure.unit)
        rows.append(bars.Bar(group.label(entry), note, figure.median * factor, whisker, entry.series, entry.hollow))
    about = "; ".join(f"{row.name}: {row.note}" for row in rows)
    picture = bars.bars(key, _title(title, group), about[:ABOUT], rows, f"{unit}, median")
    whiskers = " The line at the end of a bar is the 95 % interval of the median."
    caption = text + (whiskers if any(row.interval for row in rows) else "")
    yield html_parts.figure(title, picture, caption, len(samples) - PLOTTED)


def _roofline(key: str, group: Group, entries: Sequence[Entry]) -> Iterator[str]:
    """Decode speed against the memory bandwidth, for rows that run from the machine's own memory."""
    here = [entry for entry in entries if entry.bandwidth and not (entry.row.memory and entry.row.memory.device)]
    points = [
        (entry, rate, read)
        for entry in here
        if (rate := entry.median("decode")) is not None and drawable(rate)
        if (read := entry.row.bytes_per_token) and drawable(read)
    ]
    if not points:
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
        for entry, rate, read in points[:PLOTTED]
    ]
    roofs = sorted({entry.bandwidth / 1e6 for entry in here if entry.bandwidth})
    about = "; ".join(
        f"{dot.name}: {number_text.figure(dot.y)} tokens/s at {number_text.figure(dot.x)} MB" for dot in dots
    )
    picture = svg.scatter(
        *(key, _title("Roofline", group), about[:ABOUT], dots),
        *("MB read per token, logarithmic", "tokens/s"),
        roofs=roofs,
    )
    measured = number_text.joined([f"{number_text.size(roof * 1e6)}/s" for roof in roofs])
    text = (
        f"The dashed line is the limit that the measured read bandwidth ({measured}) sets: a dot on it can be faster "
        "only if it reads less. A model that fits into the cache may lie above the line."
    )
    yield html_parts.figure("Decode speed and memory bandwidth (roofline)", picture, text, len(points) - PLOTTED)


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
        "Solid: memory of this process only (USS). Pale: all resident memory (RSS), shared files included. The tick is "
        "the peak, the dashed line the forecast from before the run. For all-pale bars only the total is known."
    )
    yield html_parts.figure("Memory by phase", picture, text, len(entries) - BLOCKS)


def _sustained(key: str, group: Group) -> Iterator[str]:
    courses = []
    for entry in [entry for entry in group.entries if entry.row.sustained][: 2 * PLOTTED]:
        sustained = entry.row.sustained
        rates = [rate for rate in sustained.rates if rate == 0 or drawable(rate)] if sustained else []
        if sustained and rates and max(rates) > 0 and drawable(sustained.seconds):
            first, last = rates[0], rates[-1]
            change = f" ({number_text.change(last / first)})" if first else ""
            note = f"{number_text.figure(first)} → {number_text.figure(last)}{change}"
            courses.append(
                (
                    sustained.unit,
                    bars.Course(group.label(entry), note, sustained.seconds, rates, entry.series, entry.hollow),
                )
            )
    for number, unit in enumerate(dict.fromkeys(unit for unit, _ in courses)):
        same = [course for one, course in courses if one == unit]
        about = "; ".join(f"{course.name}: {course.note} {unit}" for course in same)
        title, names = _title("Sustained throughput", group), ("seconds", svg.clip(number_text.cut(unit)))
        picture = bars.courses(f"{key}{number}", title, about[:ABOUT], same[:PLOTTED], *names)
        text = "Throughput over time. A falling line: the processor throttles, or other programs run."
        yield html_parts.figure("Sustained throughput", picture, text, len(same) - PLOTTED)


def _have(entries: Sequence[Entry], quantity: str) -> list[tuple[Entry, Figure]]:
    return [(entry, figure) for entry in entries if (figure := entry.figure(quantity)) is not None]


def _unit(values: Sequence[float]) -> tuple[float, str]:
    """(factor, unit) that fits these times on one axis."""
    middle = sorted(values)[len(values) // 2]
    return next(
        ((by, unit) for least, by, unit in ((1.0, 1.0, "s"), (1e-4, 1e3, "ms")) if middle >= least), (1e6, "µs")
    )


def _title(what: str, group: Group) -> str:
    return number_text.cut(f"{what} of {group.bundle}")
