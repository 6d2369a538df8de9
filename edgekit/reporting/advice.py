"""Which variant to ship: the fastest correct one, and of equally fast ones the smallest.

    verdict = judge(rows)          # rows of one bundle on one device
    verdict.best, verdict.words    # a Contender or None, and the reasons in sentences

Knows neither a page nor an engine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.reporting import number_text
from edgekit.reporting.record import SCENARIOS, Accuracy, Figure, Row

KEEPS = 0.005  # accuracy that a variant may lose against the trained weights: half a point
LEVEL = 1.05  # medians within 5 % count as equal: the machine's noise is that large
ANSWER_TOKENS = 128  # length of a language model's answer where the test has none


@dataclass(frozen=True)
class Contender:
    """One variant in one test, with its replicates. `accuracy` may come from another test of the variant."""

    rows: tuple[Row, ...]
    accuracy: Accuracy | None

    @property
    def variant(self) -> str:
        return self.rows[0].variant

    @property
    def counted(self) -> tuple[Row, ...]:
        """The replicates that were not disturbed; all of them if every one was."""
        return tuple(row for row in self.rows if not row.disturbed) or self.rows

    @property
    def disturbed(self) -> bool:
        return all(row.disturbed for row in self.rows)

    @property
    def cost(self) -> float | None:
        return middle(self.counted, cost)

    @property
    def is_bundle(self) -> bool:
        """Whether an EdgeKit bundle was measured; the outputs of another program are not checked."""
        return self.rows[0].digest != ""

    @property
    def bytes(self) -> int | None:
        return self.rows[0].bytes

    def median(self, quantity: str) -> float | None:
        return middle(self.counted, lambda row: median(row, quantity))

    @property
    def fault(self) -> str:
        """Why it must not be shipped; "" if it is correct and measured."""
        bad = next((row for row in self.rows if row.invalid), None)
        if bad:
            return bad.invalid
        if self.cost is None:
            return "not measured"
        accuracy, check = self.accuracy, self.rows[0].check
        if check is None and (accuracy is None or accuracy.trained is None) and self.is_bundle:
            return "not checked on this device"
        if check and not check.ok:
            return check.why or "its outputs differ from the goldens"
        if accuracy and accuracy.trained is not None and accuracy.value < accuracy.trained - KEEPS:
            value, trained = number_text.share(accuracy.value), number_text.share(accuracy.trained)
            return f"{value} {_metric(accuracy)}, {trained} before the export"
        return ""


@dataclass(frozen=True)
class Verdict:
    """`best`: the variant to ship. `left_out`: (variant, reason) for those that must not be shipped."""

    best: Contender | None
    words: str
    left_out: tuple[tuple[str, str], ...] = ()


def judge(rows: Sequence[Row]) -> Verdict:
    """Which variant of one bundle to ship on one device, by the first test of its most important scenario."""
    tests = contests(rows)
    if not tests:
        return Verdict(None, "Nothing was measured.")
    rank = {name: number for number, name in enumerate(SCENARIOS)}
    first, *others = sorted(tests, key=lambda test: rank.get(test[0].rows[0].scenario, len(rank)))
    best, left_out = pick(first), _left_out(first)
    if best is None:
        why = "; ".join(f"{variant}: {reason}" for variant, reason in left_out)
        return Verdict(None, f"No variant is correct and as accurate as the trained weights. {why}.", left_out)
    sentences = [
        _figures(best),
        _against(best, first),
        _smaller(best, first),
        *(_elsewhere(best, test) for test in others),
    ]
    if best.disturbed:
        sentences.append("All of its runs were disturbed: measure again before you rely on them.")
    else:
        sentences.append(_disturbed_rivals(best, first))
    if not best.is_bundle:
        sentences.append("It is not a bundle: its outputs were not checked.")
    if best.rows[0].random:
        sentences.append("Its weights are random: only speed and memory have a meaning.")
    if left_out:
        sentences.append("Left out: " + "; ".join(f"{variant} ({reason})" for variant, reason in left_out) + ".")
    return Verdict(best, " ".join(filter(None, sentences)), left_out)


def contests(rows: Sequence[Row]) -> list[list[Contender]]:
    """The contenders of each test, in the order of the rows."""
    accuracies = {row.variant: row.accuracy for row in rows if row.accuracy}
    tests: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        tests.setdefault((row.scenario, row.test), {}).setdefault(row.variant, []).append(row)
    return [
        [Contender(tuple(same), accuracies.get(variant)) for variant, same in variants.items()]
        for variants in tests.values()
    ]


def pick(test: Sequence[Contender]) -> Contender | None:
    """The smallest of the correct contenders within `LEVEL` of the fastest one.

    Disturbed rows may win: a disturbance only makes a run slower.
    """
    able = [one for one in test if not one.fault]
    fastest = min((one.cost or 0.0 for one in able), default=0.0)
    level = [one for one in able if (one.cost or 0.0) <= fastest * LEVEL]
    return min(level, key=lambda one: (one.bytes if one.bytes is not None else math.inf, one.cost), default=None)


def cost(row: Row) -> float | None:
    """Seconds that a user waits, by which the rows of one test are ranked.

    For a language model: time to the first token, then to the end of an answer of the test's length.
    """
    if row.scenario == "llm":
        first, each = median(row, "ttft"), median(row, "tpot")
        length = row.parameters.get("generate")
        count = length if isinstance(length, int) and length > 1 else ANSWER_TOKENS
        return None if first is None or each is None else first + (count - 1) * each
    if row.scenario == "offline":
        rate = median(row, "throughput")
        return 1 / rate if rate else None
    return median(row, "step" if row.scenario == "stream" else "latency")


def median(row: Row, quantity: str) -> float | None:
    """The median of a quantity; None if it was not measured."""
    figure: Figure | None = row.figures.get(quantity)
    return figure.median if figure and math.isfinite(figure.median) else None


def middle(rows: Sequence[Row], of: Callable[[Row], float | None]) -> float | None:
    """The median of `of` over the rows that have it."""
    values = [value for row in rows if (value := of(row)) is not None]
    return statistics.median(values) if values else None


def _left_out(test: Sequence[Contender]) -> tuple[tuple[str, str], ...]:
    """(variant, reason) of the contenders that must not be shipped."""
    return tuple((one.variant, one.fault) for one in test if one.fault)


def _disturbed_rivals(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence about disturbed contenders: without the disturbance they may be faster than the best."""
    rivals = [one for one in test if one.disturbed and not one.fault and one is not best]
    names = "; ".join(f"{one.variant} ({one.rows[0].disturbed[0]})" for one in rivals)
    return f"Disturbed, and perhaps faster than measured: {names}." if names else ""


def _figures(best: Contender) -> str:
    """The figures of the best contender, in a sentence."""
    row = best.rows[0]
    parts = [_speed(best)]
    if best.accuracy:
        before = best.accuracy.trained
        against = f" ({number_text.share(before)} before the export)" if before is not None else ""
        parts.append(f"{number_text.share(best.accuracy.value)} {_metric(best.accuracy)}{against}")
    elif row.check and math.isfinite(row.check.agreement.value):
        parts.append(f"{row.check.agreement.metric} {row.check.agreement.value:.4f} against the reference")
    if row.check and row.check.batch_invariant is False:
        parts.append("outputs that depend on the batch")
    if best.bytes is not None:
        parts.append(f"{number_text.size(best.bytes)} on disk")
    if row.memory and row.memory.peak_rss is not None:
        parts.append(f"{number_text.size(row.memory.peak_rss)} peak memory")
    return ", ".join(parts) + "."


def _speed(one: Contender) -> str:
    row = one.rows[0]
    if row.scenario == "llm":
        first, each = one.median("ttft"), one.median("tpot")
        rate = f" ({number_text.figure(1 / each)} tokens/s)" if each else ""
        return f"{number_text.seconds(first)} to the first token, then {number_text.seconds(each)} per token{rate}"
    if row.scenario == "offline":
        return f"{number_text.figure(one.median('throughput'))} items/s"
    unit = "step" if row.scenario == "stream" else "input"
    return f"{number_text.seconds(one.cost)} per {unit}"


def _against(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence that compares it with the unquantized variant of the same target."""
    same = [one for one in test if one.rows[0].target == best.rows[0].target and not one.rows[0].quantized]
    if not same or not best.rows[0].quantized:
        return ""
    ratios = []
    for ours, theirs, less, more, level in (
        (best.bytes, same[0].bytes, "smaller", "larger", "the same size"),
        (best.cost, same[0].cost, "faster", "slower", "equally fast"),
    ):
        if ours and theirs:
            ratio = max(ours, theirs) / min(ours, theirs)
            ratios.append(f"{ratio:.1f} times {less if ours < theirs else more}" if ratio >= LEVEL else level)
    return f"Compared with {same[0].variant} it is {' and '.join(ratios)}." if ratios else ""


def _smaller(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence about the smallest correct variant, where it is smaller than the best."""
    able = [one for one in test if not one.fault and one.bytes is not None]
    small = min(able, key=lambda one: one.bytes or 0, default=None)
    if small is None or best.bytes is None or (small.bytes or 0) * LEVEL >= best.bytes:
        return ""
    accuracy = f", {number_text.share(small.accuracy.value)}" if small.accuracy else ""
    size = number_text.size(small.bytes)
    return f"If size matters more than speed: {small.variant} ({size}, {_speed(small)}{accuracy})."


def _elsewhere(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence about another test where another variant is faster."""
    other = pick(test)
    ours = next((one for one in test if one.variant == best.variant), None)
    if other is None or other.variant == best.variant or ours is None or not ours.cost or not other.cost:
        return ""
    if ours.cost < other.cost * LEVEL:
        return ""
    row = other.rows[0]
    return f"In test {row.test} ({row.scenario}) {other.variant} is {ours.cost / other.cost:.1f} times as fast."


def _metric(accuracy: Accuracy) -> str:
    return accuracy.metric.replace("_", " ")
