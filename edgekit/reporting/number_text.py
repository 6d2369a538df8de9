"""Figures as text: three significant digits, a fitting unit, a dash where nothing was sample.

HTML escaping is done in `edgekit.reporting.html_parts`.
"""

from __future__ import annotations

import math
import re
from typing import TypeGuard

from edgekit.bundle.safe_files import size_text
from edgekit.reporting.record import Environment, Figure, Row

DASH = "–"
LETTERS, PROSE = 200, 1500  # longest value and longest paragraph; longer text is cut and ends with …
# Control characters, and Unicode marks that are invisible or change the order of the text around them (bidi).
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

QUANTITY = {
    "load": "load",
    "load_cold": "cold load",
    "first": "first run",
    "start": "process start to result",
    "latency": "latency",
    "throughput": "throughput",
    "step": "time per step",
    "rtf": "real-time factor",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "prefill": "prefill",
    "decode": "decode",
}


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a value was measured and is finite."""
    return value is not None and math.isfinite(value)


def figure(value: float | None) -> str:
    """Three significant digits: `0.213`, `12.3`, `1,420`. Very large and very small values have an exponent."""
    if not is_number(value):
        return DASH
    if value and not 1e-6 <= abs(value) < 1e12:
        return f"{value:.2e}"
    value = float(f"{value:.3g}") if abs(value) < 1000 else value  # else 0.9996 would be 1.000
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 8)}f}"


def seconds(value: float | None) -> str:
    """A time in s, ms or µs: `12.3 ms`, `213 µs`, `1.42 s`."""
    if not is_number(value):
        return DASH
    fits = ((scale, unit) for scale, unit in ((1.0, "s"), (1e3, "ms")) if not value or abs(value) * scale >= 0.9995)
    scale, unit = next(fits, (1e6, "µs"))
    return f"{figure(value * scale)} {unit}"


def duration(value: float) -> str:
    """A time of many seconds, rounded: `40 s`, `2 min`, `3 h`."""
    scale, unit = (1, "s") if value < 90 else (60, "min") if value < 5400 else (3600, "h")
    return f"{max(round(value / scale), 1)} {unit}"


def quantity(value: float | None, unit: str) -> str:
    """A figure with its unit; a time in s, ms or µs."""
    if unit == "s":
        return seconds(value)
    if not is_number(value):
        return DASH
    return f"{figure(value)}/s" if unit == "1/s" else f"{figure(value)} {unit}".rstrip()


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage with one decimal."""
    return f"{value * 100:.1f} %" if is_number(value) else DASH


def near(value: float) -> str:
    """A value near 1 with as many digits as show its distance from 1; any other with three digits: `0.9959`, `0.99998`.

    0.99998 with four digits would be 1.0000, which is another statement.
    """
    if not 0.9 <= value < 1:
        return "1" if value == 1 else figure(value)
    return "1" if 1 - value < 5e-10 else f"{value:.{max(4, math.ceil(-math.log10(1 - value)))}f}"


def measure(metric: str, value: float) -> str:
    """A metric with its value: `cosine 0.9959`, `relative error 0.0031`."""
    return f"{metric} {near(value)}" if is_number(value) else DASH


def compares_errors(metric: str) -> bool:
    """Whether less of the metric is better."""
    return "error" in metric


def whole(value: float | None) -> str:
    """A count with thousands separators."""
    return f"{value:,.0f}" if is_number(value) else DASH


def size(value: float | None) -> str:
    """Bytes in a fitting unit."""
    if not is_number(value):
        return DASH
    return f"−{size_text(-round(value))}" if value < 0 else size_text(round(value))


def spread(sample: Figure) -> str:
    """Median and standard deviation, in one unit: `12.3 ± 0.4 ms`."""
    return _pair(sample.median, sample.stdev, sample.unit, " ± ")


def interval(sample: Figure | None) -> str:
    """The 95 % interval of the median: `12.1–12.6 ms`."""
    if sample is None or sample.low is None or sample.high is None:
        return DASH
    return _pair(sample.low, sample.high, sample.unit, "–")


def _pair(one: float, other: float | None, unit: str, between: str) -> str:
    """Two figures, both in the unit of the first."""
    shown = quantity(one, unit)
    if not is_number(other) or shown == DASH:
        return shown
    number, space, name = shown.partition(" ") if unit != "1/s" else (shown.removesuffix("/s"), "", "/s")
    factor = {"s": 1.0, "ms": 1e3, "µs": 1e6}[name] if unit == "s" else 1.0
    return f"{number}{between}{figure(other * factor)}{space}{name}"


def change(ratio: float | None) -> str:
    """A ratio as a signed percentage: `+4.2 %`; from 3 on as `3.1 ×`."""
    if not is_number(ratio):
        return DASH
    if ratio >= 3:
        return f"{figure(ratio)} ×"
    return f"{'+' if ratio >= 1 else '−'}{abs(ratio - 1) * 100:.1f} %"


def count(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def joined(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def cut(text: object, most: int = LETTERS) -> str:
    """Text of at most `most` letters without invisible characters; a dash for None."""
    whole_text = DASH if text is None else str(text)
    return visible(whole_text if len(whole_text) <= most else f"{whole_text[:most]}…")


def visible(text: str) -> str:
    """Text with its invisible and order-changing characters replaced."""
    return _INVISIBLE.sub("\ufffd", text)


def plain(sample: Figure | None) -> str:
    """The median, without `tokens/s`, for a column whose head has the unit."""
    if sample is None:
        return DASH
    return figure(sample.median) if sample.unit == "tokens/s" else quantity(sample.median, sample.unit)


def setting(row: Row) -> str:
    """The test of a row, with the replicate's number from the second on."""
    return f"{row.test} #{row.replicate + 1}" if row.replicate else row.test


def facts(environment: Environment) -> dict[str, str]:
    """The device as name -> text; unknown values are left out."""
    usable = "all usable" if environment.affinity == environment.cores else f"{environment.affinity} usable"
    quota = f"{environment.quota:g} cores" if environment.quota else "none"
    texts = {
        "processor": environment.cpu,
        "features": " ".join(environment.features),
        "cores": f"{environment.cores} ({usable})",
        "CPU quota": quota,
        "governor": environment.governor,
        "frequencies": ", ".join(sorted({f"{hertz / 1e9:.2f} GHz" for hertz in environment.frequencies})),
        "memory": size(environment.memory) if environment.memory else "",
        "memory limit": size(environment.memory_limit) if environment.memory_limit else "none",
        "memory bandwidth": f"{size(environment.bandwidth)}/s read" if environment.bandwidth else "",
        "GPU": ", ".join(environment.gpu),
        "hypervisor": environment.hypervisor,
        "system": " ".join(
            filter(None, (environment.system, environment.kernel, environment.machine, environment.libc))
        ),
        "load": f"{environment.load_before:.1f} before, {environment.load_after:.1f} after (runnable processes)",
        "engines": ", ".join(f"{name}: {engine}" for name, engine in environment.engines.items()),
        "software": ", ".join(f"{name} {version}" for name, version in environment.software.items()),
    }
    return {name: value for name, value in texts.items() if value}
