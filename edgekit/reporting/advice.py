"""What to ship, and why: the fastest variant that is right, and of those equally fast the smallest.

    verdict = judge(rows)          # of one bundle on one device
    verdict.best, verdict.words    # a Contender or None, and sentences for a person

Judges figures; knows neither a page nor an engine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.reporting import number_text
from edgekit.reporting.record import SCENARIOS, Accuracy, Figure, Row

KEEPS = 0.005  # a variant keeps the accuracy while it loses no more than half a point of what the weights have
LEVEL = 1.05  # medians within 5 % are one speed: the machine's own noise is of that size
ANSWER_TOKENS = 128  # of a language model's answer, where its test does not say


@dataclass(frozen=True)
class Contender:
    """One variant in one test, with its repetitions. `accuracy` may come from another test of the same variant."""

    rows: tuple[Row, ...]
    accuracy: Accuracy | None

    @property
    def variant(self) -> str:
        return self.rows[0].variant

    @property
    def counted(self) -> tuple[Row, ...]:
        """The repetitions that nothing disturbed; all of them, where something always did."""
        return tuple(row for row in self.rows if not row.disturbed) or self.rows

    @property
    def disturbed(self) -> bool:
        return all(row.disturbed for row in self.rows)

    @property
    def cost(self) -> float | None:
        return middle(self.counted, cost)

    @property
    def is_ours(self) -> bool:
        """Whether it is of a bundle; another program's answers nobody can check here."""
        return self.rows[0].digest != ""

    @property
    def bytes(self) -> int | None:
        return self.rows[0].bytes

    def median(self, quantity: str) -> float | None:
        return middle(self.counted, lambda row: median(row, quantity))

    @property
    def fault(self) -> str:
        """Why it is not to be shipped; empty if it is right, and measured."""
        bad = next((row for row in self.rows if row.invalid), None)
        if bad:
            return bad.invalid
        if self.cost is None:
            return "not measured"
        accuracy, check = self.accuracy, self.rows[0].check
        if check is None and (accuracy is None or accuracy.trained is None) and self.is_ours:
            return "not checked on this device"
        if check and not check.ok:
            return check.why or "its known answers did not come out"
        if accuracy and accuracy.trained is not None and accuracy.value < accuracy.trained - KEEPS:
            value, trained = number_text.share(accuracy.value), number_text.share(accuracy.trained)
            return f"{value} {_metric(accuracy)}, {trained} before the export"
        return ""


@dataclass(frozen=True)
class Verdict:
    """`left_out`: variants with the reason."""

    best: Contender | None
    words: str
    left_out: tuple[tuple[str, str], ...] = ()


def judge(rows: Sequence[Row]) -> Verdict:
    """What to ship of one bundle on one device, by the first test of its deciding scenario."""
    tests = contests(rows)
    if not tests:
        return Verdict(None, "Nothing was measured.")
    rank = {name: number for number, name in enumerate(SCENARIOS)}
    first, *others = sorted(tests, key=lambda test: rank.get(test[0].rows[0].scenario, len(rank)))
    best, left_out = pick(first), _left_out(first)
    if best is None:
        why = "; ".join(f"{variant}: {reason}" for variant, reason in left_out)
        return Verdict(None, f"No variant is right and as accurate as the weights it was made from. {why}.", left_out)
    said = [_figures(best), _against(best, first), _smaller(best, first), *(_elsewhere(best, test) for test in others)]
    if best.disturbed:
        said.append("All of its runs were disturbed, so measure again before you rely on them.")
    else:
        said.append(_unsure(best, first))
    if not best.is_ours:
        said.append("It is no bundle: nobody checked its answers here.")
    if best.rows[0].random:
        said.append("Its weights are made up: the figures tell speed and memory, and nothing of answers.")
    if left_out:
        said.append("Left out: " + "; ".join(f"{variant} ({reason})" for variant, reason in left_out) + ".")
    return Verdict(best, " ".join(filter(None, said)), left_out)


def contests(rows: Sequence[Row]) -> list[list[Contender]]:
    """For each test, in order, who took part."""
    accuracies = {row.variant: row.accuracy for row in rows if row.accuracy}
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row.scenario, row.test), {}).setdefault(row.variant, []).append(row)
    return [
        [Contender(tuple(same), accuracies.get(variant)) for variant, same in variants.items()]
        for variants in found.values()
    ]


def pick(test: Sequence[Contender]) -> Contender | None:
    """The fastest that is right, of those within `LEVEL` the smallest. What disturbs a run takes time from it: a
    disturbed one that is the fastest all the same would be, too, if it had been left alone."""
    able = [one for one in test if not one.fault]
    fastest = min((one.cost or 0.0 for one in able), default=0.0)
    level = [one for one in able if (one.cost or 0.0) <= fastest * LEVEL]
    return min(level, key=lambda one: (one.bytes if one.bytes is not None else math.inf, one.cost), default=None)


def cost(row: Row) -> float | None:
    """Seconds that a user waits for: by these the rows of one test are ranked.

    A language model: to the first token, and then for an answer as long as its test has it.
    """
    if row.scenario == "llm":
        first, each = median(row, "ttft"), median(row, "tpot")
        asked = row.parameters.get("generate")
        count = asked if isinstance(asked, int) and asked > 1 else ANSWER_TOKENS
        return None if first is None or each is None else first + (count - 1) * each
    if row.scenario == "offline":
        rate = median(row, "throughput")
        return 1 / rate if rate else None
    return median(row, "step" if row.scenario == "stream" else "latency")


def median(row: Row, quantity: str) -> float | None:
    found: Figure | None = row.figures.get(quantity)
    return found.median if found and math.isfinite(found.median) else None


def middle(rows: Sequence[Row], of: Callable[[Row], float | None]) -> float | None:
    """The median over repetitions that have it."""
    found = [value for row in rows if (value := of(row)) is not None]
    return statistics.median(found) if found else None


def _left_out(test: Sequence[Contender]) -> tuple[tuple[str, str], ...]:
    """Who may not win, and why."""
    return tuple((one.variant, one.fault) for one in test if one.fault)


def _unsure(best: Contender, test: Sequence[Contender]) -> str:
    """Who may be faster than they were seen to be, and so than the best."""
    found = [one for one in test if one.disturbed and not one.fault and one is not best]
    told = "; ".join(f"{one.variant} ({one.rows[0].disturbed[0]})" for one in found)
    return f"Disturbed, and perhaps faster than they were measured: {told}." if told else ""


def _figures(best: Contender) -> str:
    """The figures of the one to ship, in a sentence."""
    row = best.rows[0]
    parts = [_speed(best)]
    if best.accuracy:
        before = best.accuracy.trained
        against = f" ({number_text.share(before)} before the export)" if before is not None else ""
        parts.append(f"{number_text.share(best.accuracy.value)} {_metric(best.accuracy)}{against}")
    elif row.check and math.isfinite(row.check.agreement.value):
        parts.append(f"{row.check.agreement.metric} {row.check.agreement.value:.4f} against the reference")
    if best.bytes is not None:
        parts.append(f"{number_text.size(best.bytes)} on disk")
    if row.memory and row.memory.peak_rss is not None:
        parts.append(f"{number_text.size(row.memory.peak_rss)} of memory at most")
    return ", ".join(parts) + "."


def _speed(one: Contender) -> str:
    row = one.rows[0]
    if row.scenario == "llm":
        first, each = one.median("ttft"), one.median("tpot")
        rate = f" ({number_text.figure(1 / each)} tokens/s)" if each else ""
        return f"{number_text.seconds(first)} to the first token, then {number_text.seconds(each)} a token{rate}"
    if row.scenario == "offline":
        return f"{number_text.figure(one.median('throughput'))} items a second"
    what = "a step" if row.scenario == "stream" else "an input"
    return f"{number_text.seconds(one.cost)} {what}"


def _against(best: Contender, test: Sequence[Contender]) -> str:
    """Against the same target's variant that is not quantized."""
    same = [one for one in test if one.rows[0].target == best.rows[0].target and not one.rows[0].quantized]
    if not same or not best.rows[0].quantized:
        return ""
    found = []
    for ours, theirs, less, more, level in (
        (best.bytes, same[0].bytes, "smaller", "larger", "as large"),
        (best.cost, same[0].cost, "faster", "slower", "about as fast"),
    ):
        if ours and theirs:
            ratio = max(ours, theirs) / min(ours, theirs)
            found.append(f"{ratio:.1f} times {less if ours < theirs else more}" if ratio >= LEVEL else level)
    return f"Against {same[0].variant} it is {' and '.join(found)}." if found else ""


def _smaller(best: Contender, test: Sequence[Contender]) -> str:
    able = [one for one in test if not one.fault and one.bytes is not None]
    small = min(able, key=lambda one: one.bytes or 0, default=None)
    if small is None or best.bytes is None or (small.bytes or 0) * LEVEL >= best.bytes:
        return ""
    accuracy = f", {number_text.share(small.accuracy.value)}" if small.accuracy else ""
    size = number_text.size(small.bytes)
    return f"Where size matters more than speed: {small.variant} ({size}, {_speed(small)}{accuracy})."


def _elsewhere(best: Contender, test: Sequence[Contender]) -> str:
    """In another test another may win."""
    other = pick(test)
    ours = next((one for one in test if one.variant == best.variant), None)
    if other is None or other.variant == best.variant or ours is None or not ours.cost or not other.cost:
        return ""
    if ours.cost < other.cost * LEVEL:
        return ""
    row = other.rows[0]
    return f"In the test {row.test} ({row.scenario}) {other.variant} is {ours.cost / other.cost:.1f} times as fast."


def _metric(accuracy: Accuracy) -> str:
    return accuracy.metric.replace("_", " ")
