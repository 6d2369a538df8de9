"""Bounds for CI: `tpot_p50>+5%` fails a row whose median TPOT is more than 5 % above that of the first file.

    METRIC[_STATISTIC](<|>)VALUE[!]

METRIC is a quantity of a row (`edgekit.reporting.record.QUANTITIES`) or one of `SINGLE`. VALUE with a sign and `%` is
relative to the first file; else it is absolute, with a unit: `0.5s`, `500MB`, `0.99`. A figure that was not measured
fails. A relative bound fails only where the change is significant and other programs do not explain it; `!` fails in
any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.errors import UsageError
from edgekit.registry import suggest
from edgekit.reporting import number_text
from edgekit.reporting.advice import middle
from edgekit.reporting.comparison import CERTAIN, Comparison, Match, p_text
from edgekit.reporting.record import PHASES, QUANTITIES, Row
from edgekit.reporting.significance import FEWEST, differ, differ_at

HINT = "write METRIC>VALUE or METRIC<VALUE: 'tpot_p50>+5%', 'ttft_p50>0.5s', 'peak_rss>500MB', 'accuracy<0.99'"
STATISTICS = {"p50": "median", **{name: name for name in ("median", "p90", "p95", "p99", "mean", "min", "max")}}
UNITS = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "1/s": {"/s": 1.0, "1/s": 1.0},
    "tokens/s": {"tokens/s": 1.0, "/s": 1.0},
    "bytes": {
        **dict.fromkeys(("", "b"), 1.0),
        **{f"{letter}b": 1e3**power for power, letter in enumerate("kmgt", start=1)},
        **{f"{letter}{end}": 1024.0**power for power, letter in enumerate("kmgt", start=1) for end in ("", "ib")},
    },
    "share": {"": 1.0, "%": 0.01},
    "J": {"j": 1.0, "mj": 1e-3},
    "": {"": 1.0},
}


def _of_memory(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.memory, name) if row.memory else None


def _of_phase(kind: str, name: str) -> Callable[[Row], float | None]:
    def find(row: Row) -> float | None:
        phases = row.memory.phases if row.memory else ()
        return next((getattr(phase, kind) for phase in phases if phase.name == name), None)

    return find


# Single values of a row: metric -> (unit, getter).
SINGLE: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "peak_rss": ("bytes", _of_memory("peak_rss")),
    "slope": ("bytes", _of_memory("slope")),
    "states": ("bytes", _of_memory("states")),
    "device_memory": ("bytes", _of_memory("device")),
    **{
        f"{kind}_{name.replace(' ', '_')}": ("bytes", _of_phase(kind, name))
        for kind in ("rss", "pss", "uss")
        for name in PHASES
    },
    "bytes": ("bytes", lambda row: row.bytes),
    "accuracy": ("share", lambda row: row.accuracy.value if row.accuracy else None),
    "agreement": ("", lambda row: row.check.agreement.value if row.check else None),
    "energy": ("J", lambda row: row.energy.each if row.energy else None),
}


# Metrics that neither chance nor other programs move.
STEADY = {name for name in SINGLE if name != "energy"}
FORCE = "measure again, or end the bound with ! to fail in any case"


@dataclass(frozen=True)
class Bound:
    """A parsed bound. `text`: the user's own. `value` is a share of the first file's figure if `relative`."""

    text: str
    metric: str
    statistic: str
    above: bool  # True: a larger figure fails; False: a smaller one
    value: float
    relative: bool
    forced: bool = False  # `!`: significance and disturbances do not matter

    @property
    def unit(self) -> str:
        return SINGLE[self.metric][0] if self.metric in SINGLE else QUANTITIES[self.metric][0]

    def has(self, rows: Sequence[Row]) -> bool:
        """Whether any of the rows has the metric."""
        if self.metric in SINGLE:
            return self.get(rows) is not None
        return any(self.metric in row.figures for row in rows)

    def get(self, rows: Sequence[Row]) -> float | None:
        """The median of the metric over replicates."""
        if self.metric in SINGLE:
            return middle(rows, SINGLE[self.metric][1])
        return middle([row for row in rows if self.metric in row.figures], self._statistic)

    def _statistic(self, row: Row) -> float | None:
        value: float | None = getattr(row.figures[self.metric], self.statistic)
        return value


@dataclass(frozen=True)
class Failure:
    """A row that is beyond a bound, in words. `excuse`: why it does not fail all the same; "" if it fails."""

    bound: str
    row: str
    file: str
    why: str
    excuse: str = ""

    def __str__(self) -> str:
        excuse = f"; {self.excuse}" if self.excuse else ""
        return f"{self.row} in {self.file}: {self.why} ({self.bound}){excuse}"


def parse(text: str) -> Bound:
    """Parse a bound. Raises UsageError with the column of the first mistake."""
    sign = re.search(r"[<>]", text)
    if sign is None:
        raise _wrong(text, len(text), "there is no < or >")
    metric, statistic = _metric(text, text[: sign.start()].strip())
    unit = SINGLE[metric][0] if metric in SINGLE else QUANTITIES[metric][0]
    forced = text.rstrip().endswith("!")
    value, relative = _value(text.rstrip().removesuffix("!"), sign.end(), unit)
    if forced and not relative:
        raise _wrong(text, len(text.rstrip()) - 1, "! is for bounds relative to the first file", "leave ! out")
    return Bound(text, metric, statistic, sign[0] == ">", value, relative, forced)


def judge(bound: Bound, comparison: Comparison) -> list[Failure]:
    """Every row of the later files that is beyond the bound, or that has no figure to compare.

    With a single file, and so an absolute bound, the rows of that file are judged.
    """
    files = range(1, len(comparison.names)) if len(comparison.names) > 1 else range(1)
    matches = [match for match in comparison.matches if any(map(bound.has, match.rows))]
    if not matches:
        return [Failure(bound.text, "no row", comparison.names[-1], f"no row has {bound.metric}")]
    failures = []
    for match in matches:
        for file in files:
            if why := _fault(bound, match, file):
                excuse = _excuse(bound, match, file, comparison)
                failures.append(Failure(bound.text, match.key.name, comparison.names[file], why, excuse))
    return failures


def _excuse(bound: Bound, match: Match, file: int, comparison: Comparison) -> str:
    """Why a row beyond a relative bound does not fail: the change is not significant, or others slowed it down."""
    if not bound.relative or bound.forced or bound.metric in STEADY or match.invalid(0) or match.invalid(file):
        return ""
    before, after = (bound.get(match.rows[at]) for at in (0, file))
    if not before or after is None:
        return ""  # nothing to compare, which fails
    less = QUANTITIES[bound.metric][1] if bound.metric in QUANTITIES else True
    slower = file if (after > before) == less else 0  # a disturbance can only explain the slower side
    if match.disturbed(slower):
        reason = next(row.disturbed[0] for row in match.rows[slower] if row.disturbed)
        return f"not failed: {comparison.names[slower]} was disturbed ({reason}); {FORCE}"
    if bound.metric in SINGLE:
        return ""
    if bound.statistic in ("min", "max"):
        return f"not failed: the {bound.statistic} is a single run, which no test can judge; {FORCE}"
    p = _p(bound, match, file, comparison)
    if p is None:
        return f"not failed: fewer than {FEWEST} runs cannot be significant; {FORCE}"
    return f"not failed: not significant (p {p_text(p)}); {FORCE}" if p >= CERTAIN else ""


def _p(bound: Bound, match: Match, file: int, comparison: Comparison) -> float | None:
    """The p value of the change: the one that the tables show, where they show one."""
    one, other = match.sample(0, bound.metric), match.sample(file, bound.metric)
    if bound.statistic in ("p90", "p95", "p99"):
        return differ_at(int(bound.statistic[1:]), one, other)
    shown = comparison.change(match.key, file, number_text.QUANTITY[bound.metric])
    return shown.p if shown else differ(one, other)


def _fault(bound: Bound, match: Match, file: int) -> str:
    """Why a row fails; "" if it passes. A row that the first file lacks passes a relative bound."""
    if not match.rows[file]:
        return "missing"
    if invalid := match.invalid(file):
        return f"invalid: {invalid}"
    after = bound.get(match.rows[file])
    if after is None:
        return f"{bound.metric} {bound.statistic} was not measured, or has too few runs"
    if not bound.relative:
        fails = after > bound.value if bound.above else after < bound.value
        return f"{_text(bound, after)}, allowed is {_text(bound, bound.value)}" if fails else ""
    if not match.rows[0]:
        return ""
    if invalid := match.invalid(0):
        return f"nothing to compare with, the first file's row is invalid: {invalid}"
    before = bound.get(match.rows[0])
    if before is None or before <= 0:
        return f"nothing to compare with, the first file has {_text(bound, before)}"
    limit = before * (1 + bound.value)
    fails = after > limit if bound.above else after < limit
    change = f"{_text(bound, before)} before, {_text(bound, after)} now ({number_text.change(after / before)})"
    return change if fails else ""


def _text(bound: Bound, value: float | None) -> str:
    if bound.unit == "bytes":
        return number_text.size(value)
    if bound.unit == "share":
        return number_text.DASH if value is None else f"{value:.4f}"
    return number_text.quantity(value, bound.unit)


def _metric(text: str, name: str) -> tuple[str, str]:
    if name in SINGLE:
        return name, ""
    quantity, _, statistic = name.rpartition("_")
    if name in QUANTITIES:
        return name, "median"
    if quantity in QUANTITIES and statistic in STATISTICS:
        return quantity, STATISTICS[statistic]
    known = [*SINGLE, *QUANTITIES, *(f"{quantity}_{each}" for quantity in QUANTITIES for each in STATISTICS)]
    if quantity in QUANTITIES:
        raise _wrong(text, len(quantity) + 1, f"there is no statistic {statistic!r}", f"known: {', '.join(STATISTICS)}")
    hint = suggest(name, known) or f"known: {', '.join((*QUANTITIES, *SINGLE))}"
    raise _wrong(text, 0, f"there is no metric {name!r}", hint)


def _value(text: str, start: int, unit: str) -> tuple[float, bool]:
    """The number, and whether it is relative to the first file."""
    start += len(text[start:]) - len(text[start:].lstrip())
    match = re.fullmatch(r"([+-]?)(\d{1,15}(?:\.\d{1,15})?)\s*((?:[^\d.\s]\S*)?)", text[start:].rstrip(), re.ASCII)
    if match is None:
        raise _wrong(text, start, f"{text[start:]!r} is not a number with a unit")
    sign, number, suffix = match.groups()
    if sign and suffix == "%":
        return float(f"{sign}{number}") / 100, True
    if sign:
        raise _wrong(text, start, "only a percentage takes a sign")
    units = UNITS[unit]
    if suffix.lower() not in units:
        known = ", ".join(filter(None, units)) or "no unit"
        hint = f"write it with {known}; or +5% or -5%, relative to the first file"
        why = f"{suffix!r} is not a unit of it" if suffix else "it needs a unit"
        raise _wrong(text, start + len(number), why, hint)
    return float(number) * units[suffix.lower()], False


def _wrong(text: str, column: int, why: str, hint: str = HINT) -> UsageError:
    return UsageError(f"--fail-if {text!r}: {why}, at column {column + 1}", hint=hint, column=column + 1)
