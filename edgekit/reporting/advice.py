"""Which variant to ship: the fastest correct one, and of equally fast ones the smallest.

    verdict = judge(rows)          # rows of one bundle on one device
    verdict.best, verdict.words    # a Contender or None, and the reasons in sentences
    verdict.runner_up              # the next one, in a sentence with what it costs and what it gains

Knows neither a page nor an engine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.reporting import number_text, quality
from edgekit.reporting.quality import Quality
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
    def quality(self) -> Quality | None:
        return quality.of(self.rows[0], self.accuracy)

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
    """`best`: the variant to ship. `left_out`: (variant, reason) for those that must not be shipped.

    `baseline`: the unquantized variant of the same target, where the best one is quantized. `runner_up`: a sentence.
    """

    best: Contender | None
    words: str
    left_out: tuple[tuple[str, str], ...] = ()
    baseline: Contender | None = None
    runner_up: str = ""


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
    baseline, runner_up = _baseline(best, first), _runner_up(best, first)
    sentences = [
        _figures(best),
        _against(best, baseline),
        runner_up,
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
    return Verdict(best, " ".join(filter(None, sentences)), left_out, baseline, runner_up)


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
    row, good = best.rows[0], best.quality
    parts = [speed(best)]
    if good:
        before = f" ({number_text.share(good.trained)} before the export)" if good.trained is not None else ""
        parts.append(f"{good.text}{before}" if best.accuracy else f"{good.text} against the reference")
    if row.check and row.check.batch_invariant is False:
        parts.append("outputs that depend on the batch")
    if best.bytes is not None:
        parts.append(f"{number_text.size(best.bytes)} on disk")
    if row.memory and row.memory.peak_rss is not None:
        parts.append(f"{number_text.size(row.memory.peak_rss)} peak memory")
    return ", ".join(parts) + "."


def speed(one: Contender) -> str:
    """The speed of a contender in words."""
    row = one.rows[0]
    if row.scenario == "llm":
        first, each, decode = one.median("ttft"), one.median("tpot"), one.median("decode")
        rate = f" ({number_text.figure(decode)} tokens/s)" if decode else ""
        return f"{number_text.seconds(first)} to the first token, then {number_text.seconds(each)} per token{rate}"
    if row.scenario == "offline":
        return f"{number_text.figure(one.median('throughput'))} items/s"
    unit = "step" if row.scenario == "stream" else "input"
    return f"{number_text.seconds(one.cost)} per {unit}"


def _baseline(best: Contender, test: Sequence[Contender]) -> Contender | None:
    """The unquantized variant of the same target, if the best one is quantized."""
    same = [one for one in test if one.rows[0].target == best.rows[0].target and not one.rows[0].quantized]
    return same[0] if same and best.rows[0].quantized else None


def times(ours: float | None, theirs: float | None, less: str, more: str, level: str) -> str:
    """`2.0 times faster`: a ratio of two positive figures in words; "" if one of them is missing."""
    if not ours or not theirs:
        return ""
    ratio = max(ours, theirs) / min(ours, theirs)
    return f"{ratio:.1f} times {less if ours < theirs else more}" if ratio >= LEVEL else level


def _against(best: Contender, baseline: Contender | None) -> str:
    """A sentence that compares it with the unquantized variant of the same target."""
    if baseline is None:
        return ""
    ratios = [
        times(best.bytes, baseline.bytes, "smaller", "larger", "the same size"),
        times(best.cost, baseline.cost, "faster", "slower", "equally fast"),
    ]
    text = " and ".join(filter(None, ratios))
    return f"Compared with {baseline.variant} it is {text}." if text else ""


def _runner_up(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence about the next fastest correct one, and one about a more exact one that is slower still.

    Not the best one's own unquantized form, which has a sentence of its own.
    """
    baseline = _baseline(best, test)
    others = [one for one in test if not one.fault and one is not best and one is not baseline]
    others.sort(key=lambda one: one.cost or math.inf)
    if not others:
        return ""
    sentences = [f"Runner-up: {_trade_off(others[0], best)}."]
    loss = best.quality.loss if best.quality else None
    exact = [one for one in others[1:] if loss and one.quality and (one.quality.loss or loss) * quality.NOTABLE < loss]
    first_loss = others[0].quality.loss if others[0].quality else None
    if exact and loss and (first_loss is None or first_loss * quality.NOTABLE >= loss):
        sentences.append(f"More exact: {_trade_off(exact[0], best)}.")
    return " ".join(sentences)


def _trade_off(one: Contender, best: Contender) -> str:
    """`openvino/int8-dynamic, 20 % slower, error 4.2 times smaller`."""
    slower = (one.cost or 0.0) / best.cost if best.cost else 1.0
    if slower < LEVEL:
        speed_text = "equally fast" if slower > 1 / LEVEL else "faster"
    else:
        speed_text = f"{slower - 1:.0%} slower".replace("%", " %") if slower < 2 else f"{slower:.1f} times slower"
    size = times(one.bytes, best.bytes, "smaller", "larger", "")
    return ", ".join(filter(None, (one.variant, speed_text, size, quality.ratio(one.quality, best.quality))))


def _smaller(best: Contender, test: Sequence[Contender]) -> str:
    """A sentence about the smallest correct variant, where it is smaller than the best."""
    able = [one for one in test if not one.fault and one.bytes is not None]
    small = min(able, key=lambda one: one.bytes or 0, default=None)
    if small is None or best.bytes is None or (small.bytes or 0) * LEVEL >= best.bytes:
        return ""
    accuracy = f", {number_text.share(small.accuracy.value)}" if small.accuracy else ""
    size = number_text.size(small.bytes)
    return f"If size matters more than speed: {small.variant} ({size}, {speed(small)}{accuracy})."


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
