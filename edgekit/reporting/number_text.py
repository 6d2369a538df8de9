"""Figures as a person reads them: three digits, a unit that fits, a dash for what was not measured.

Knows no row and no page; what a page needs beyond it (escaping) is done where the page is made.
"""

from __future__ import annotations

import math
import re
from typing import TypeGuard

from edgekit.bundle.safe_files import size_text
from edgekit.reporting.record import Environment, Figure, Row

DASH = "–"
LETTERS, PROSE = 200, 1500  # of a value, of a paragraph: what is longer is cut, and says so
# Controls, and the marks by which a name could turn the order of the text around it (Unicode bidi) or hide in it.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

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
    """Measured, and finite."""
    return value is not None and math.isfinite(value)


def figure(value: float | None) -> str:
    """Three significant digits, in exponents only where nobody could read it otherwise: `0.213`, `12.3`, `1,420`."""
    if not is_number(value):
        return DASH
    if value and not 1e-6 <= abs(value) < 1e12:
        return f"{value:.2e}"
    value = float(f"{value:.3g}") if abs(value) < 1000 else value  # else 0.9996 would be 1.000
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 8)}f}"


def seconds(value: float | None) -> str:
    """`12.3 ms`, `213 µs`, `1.42 s`."""
    if not is_number(value):
        return DASH
    fits = ((scale, unit) for scale, unit in ((1.0, "s"), (1e3, "ms")) if not value or abs(value) * scale >= 0.9995)
    scale, unit = next(fits, (1e6, "µs"))
    return f"{figure(value * scale)} {unit}"


def quantity(value: float | None, unit: str) -> str:
    """A figure with its unit, times in the one that fits."""
    if unit == "s":
        return seconds(value)
    if not is_number(value):
        return DASH
    return f"{figure(value)}/s" if unit == "1/s" else f"{figure(value)} {unit}".rstrip()


def share(value: float | None) -> str:
    """A share from 0 to 1 in per cent, to a tenth."""
    return f"{value * 100:.1f} %" if is_number(value) else DASH


def whole(value: float | None) -> str:
    """A count, with its thousands apart."""
    return f"{value:,.0f}" if is_number(value) else DASH


def size(value: float | None) -> str:
    if not is_number(value):
        return DASH
    return f"−{size_text(-round(value))}" if value < 0 else size_text(round(value))


def spread(found: Figure) -> str:
    """Median and standard deviation, in one unit: `12.3 ± 0.4 ms`."""
    return _pair(found.median, found.stdev, found.unit, " ± ")


def interval(found: Figure | None) -> str:
    """The 95 % interval of the median: `12.1–12.6 ms`."""
    if found is None or found.low is None or found.high is None:
        return DASH
    return _pair(found.low, found.high, found.unit, "–")


def _pair(one: float, other: float | None, unit: str, between: str) -> str:
    """Two figures in the unit that fits the first."""
    shown = quantity(one, unit)
    if not is_number(other) or shown == DASH:
        return shown
    number, space, name = shown.partition(" ") if unit != "1/s" else (shown.removesuffix("/s"), "", "/s")
    factor = {"s": 1.0, "ms": 1e3, "µs": 1e6}[name] if unit == "s" else 1.0
    return f"{number}{between}{figure(other * factor)}{space}{name}"


def change(ratio: float | None) -> str:
    """What a ratio is in per cent, with its sign: `+4.2 %`; from threefold on as `3.1 ×`."""
    if not is_number(ratio):
        return DASH
    if ratio >= 3:
        return f"{figure(ratio)} ×"
    return f"{'+' if ratio >= 1 else '−'}{abs(ratio - 1) * 100:.1f} %"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def joined(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def cut(text: object, most: int = LETTERS) -> str:
    """Of bearable length, and without what cannot be seen; a dash for None."""
    found = DASH if text is None else str(text)
    return visible(found if len(found) <= most else f"{found[:most]}…")


def visible(text: str) -> str:
    """Without what cannot be seen, or turns round what can."""
    return _UNSEEN.sub("\ufffd", text)


def plain(found: Figure | None) -> str:
    """The median, without `tokens/s`, for a column that says it."""
    if found is None:
        return DASH
    return figure(found.median) if found.unit == "tokens/s" else quantity(found.median, found.unit)


def setting(row: Row) -> str:
    """The test of a row with which of the repetitions it is."""
    return f"{row.test} #{row.replicate + 1}" if row.replicate else row.test


def facts(found: Environment) -> dict[str, str]:
    """The device for a person; what is not known is left out."""
    quota = f"{found.quota:g} cores" if found.quota else "none"
    told = {
        "processor": found.cpu,
        "features": " ".join(found.features),
        "cores": f"{found.cores}, {found.affinity} for this process",
        "CPU quota": quota,
        "governor": found.governor,
        "frequencies": ", ".join(sorted({f"{hertz / 1e9:.2f} GHz" for hertz in found.frequencies})),
        "memory": size(found.memory) if found.memory else "",
        "memory limit": size(found.memory_limit) if found.memory_limit else "none",
        "memory bandwidth": f"{size(found.bandwidth)}/s read" if found.bandwidth else "",
        "GPU": ", ".join(found.gpu),
        "hypervisor": found.hypervisor,
        "system": " ".join(filter(None, (found.system, found.kernel, found.machine, found.libc))),
        "load": f"{found.load_before:.1f} before, {found.load_after:.1f} after (processes that wanted to run)",
        "engines": ", ".join(f"{name}: {engine}" for name, engine in found.engines.items()),
        "software": ", ".join(f"{name} {version}" for name, version in found.software.items()),
    }
    return {name: value for name, value in told.items() if value}
