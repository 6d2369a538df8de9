"""What is recommended: the fastest that is right, why the others are not, and how figures are written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from made_records import check, encoder, figure, language_model, row, typical

from edgekit.core import Measure
from edgekit.reporting import number_text, quality
from edgekit.reporting.advice import contests, cost, judge, pick
from edgekit.reporting.record import Accuracy, Row


def met(value: float, trained: float | None = 0.982) -> Accuracy:
    return Accuracy(metric="recall_at_1", value=value, trained=trained, items=1000)


def timed(variant: str, seconds: float, accuracy: float | None = 0.982, **changed: Any) -> Row:
    found = {"latency": figure("latency", [seconds])}
    return row(variant, figures=found, accuracy=met(accuracy) if accuracy is not None else None, **changed)


def best(*rows: Row) -> str | None:
    chosen = judge(rows).best
    return chosen.variant if chosen else None


def test_ships_the_fastest_that_is_right_and_keeps_the_accuracy() -> None:
    slow, quick = timed("cpu/fp32", 2.0), timed("cpu/int8-dynamic", 1.0, 0.978)
    wrong = timed("openvino/fp32", 0.1, check=check("openvino/fp32", ok=False), invalid="it moved")
    worse = timed("openvino/int8-dynamic", 0.1, 0.97)
    unknown = (timed("a/fp32", 0.1, None, check=None), row("b/fp32", figures={}))
    assert best(slow, quick, wrong, worse, *unknown) == "cpu/int8-dynamic"
    assert best(wrong, worse, *unknown) is None
    assert best() is None
    assert judge([]).words == "Nothing was measured."
    told = dict(judge([slow, wrong, worse, *unknown]).left_out)
    assert told == {
        "openvino/fp32": "it moved",
        "openvino/int8-dynamic": "97.0 % recall at 1, 98.2 % before the export",
        "a/fp32": "not checked on this device",
        "b/fp32": "not measured",
    }


def test_a_check_without_accuracy_is_enough_and_a_failed_one_never_is() -> None:
    assert best(timed("cpu/fp32", 1.0, None)) == "cpu/fp32"
    failed = check("cpu/fp32", ok=False)
    assert best(timed("cpu/fp32", 1.0, check=failed)) is None  # even if nobody marked it invalid
    assert best(timed("cpu/fp32", 1.0, None, check=None)) is None
    unseen = replace(timed("cpu/fp32", 1.0), accuracy=met(0.5, None))
    assert best(unseen) == "cpu/fp32", "without the trained weights' figure there is nothing to lose against"


def test_of_equally_fast_ones_ships_the_smallest() -> None:
    one, small = timed("cpu/fp32", 1.0), timed("cpu/int8-dynamic", 1.04)
    assert best(one, small) == "cpu/int8-dynamic"
    assert best(one, replace(small, figures={"latency": figure("latency", [1.06])})) == "cpu/fp32"


def test_what_was_disturbed_is_at_least_as_fast_as_it_seemed() -> None:
    """The faster of two was once left out because the hypervisor had taken three percent of its time."""
    calm, noisy = timed("cpu/fp32", 1.0), timed("openvino/fp32", 0.5, disturbed=("others used 1.2 cores",))
    assert best(calm, noisy) == "openvino/fp32"
    assert "measure again" in judge([calm, noisy]).words
    assert "perhaps faster" not in judge([calm, noisy]).words
    slower = judge([calm, timed("openvino/fp32", 1.5, disturbed=("others used 1.2 cores",))])
    assert slower.best is not None
    assert slower.best.variant == "cpu/fp32"
    assert "perhaps faster than measured: openvino/fp32 (others used 1.2 cores)." in slower.words
    assert "measure again" not in slower.words


def test_repetitions_count_by_their_median_and_without_the_disturbed() -> None:
    again = [timed("cpu/fp32", seconds, replicate=n) for n, seconds in enumerate((1.0, 3.0, 2.0))]
    ((found,),) = contests(again)
    assert found.cost == 2.0
    again[0] = replace(again[0], disturbed=("x",))
    ((found,),) = contests(again)
    assert found.cost == 2.5
    assert not found.disturbed
    again[1] = replace(again[1], invalid="wrong")
    assert best(*again) is None


def test_each_scenario_has_its_cost() -> None:
    model = language_model("cpu/int8", 40.0, 1_000_000, figures={
        "ttft": figure("ttft", [0.5]), "tpot": figure("tpot", [0.01])
    })  # fmt: skip
    assert cost(model) == pytest.approx(0.5 + 127 * 0.01)
    assert cost(replace(model, parameters={"generate": 11})) == pytest.approx(0.6)
    assert cost(replace(model, figures={})) is None
    many = {"throughput": figure("throughput", [4.0])}
    assert cost(row(scenario="offline", figures=many)) == 0.25
    assert cost(row(scenario="offline", figures={"throughput": figure("throughput", [0.0])})) is None
    assert cost(row(scenario="stream", figures={"step": figure("step", [0.1])})) == 0.1


def test_advice_says_why() -> None:
    full, small = timed("cpu/fp32", 2.0), timed("cpu/int8-dynamic", 1.0, 0.98)
    said = judge([full, small]).words
    assert "1.00 s per input, 98.0 % recall at 1 (98.2 % before the export), 23.1 MB on disk" in said
    assert "104.7 MB peak memory" in said
    assert "Compared with cpu/fp32 it is 3.9 times smaller and 2.0 times faster." in said
    said = judge([full, replace(small, figures={"latency": figure("latency", [3.0])})]).words
    assert "If size matters more than speed: cpu/int8-dynamic (23.1 MB, 3.00 s per input, 98.0 %)." in said
    said = judge([timed("cpu/fp32", 1.0, 0.1)]).words
    assert said.startswith("No variant is correct and as accurate as the trained weights. cpu/fp32: 10.0 %")


def test_advice_says_where_outputs_depend_on_the_batch() -> None:
    usual = check("cpu/int8")
    words = [
        judge([timed("cpu/int8", 1.0, check=replace(usual, batch_invariant=one, batch_difference=0.1))]).words
        for one in (None, True, False)
    ]
    assert words[0] == words[1]
    assert "depend on the batch" not in words[0]
    assert "outputs that depend on the batch" in words[2]


def near(variant: str, seconds: float, loss: float, **changed: Any) -> Row:
    """A row without held-out data: only its agreement with the reference is known."""
    known = replace(check(variant), agreement=Measure("cosine", 1 - loss, loss))
    return timed(variant, seconds, None, check=known, **changed)


def test_the_runner_up_is_named_with_what_it_costs_and_gains() -> None:
    rows = [near("cpu/int8-dynamic", 0.0196, 0.0041), near("openvino/int8-dynamic", 0.0236, 0.0009)]
    verdict = judge(rows)
    assert verdict.runner_up == "Runner-up: openvino/int8-dynamic, 20 % slower, error 4.56 times smaller."
    assert verdict.runner_up in verdict.words
    assert "19.6 ms per input, cosine 0.9959 against the reference" in verdict.words
    full = [near("cpu/fp32", 0.05, 1e-7), near("openvino/fp32", 0.06, 1e-7)]
    said = judge([*rows, *full]).words
    assert "Compared with cpu/fp32 it is 3.9 times smaller and 2.6 times faster. Runner-up: openvino/int8" in said
    coarse = near("openvino/int8-dynamic", 0.0236, 0.0040)
    said = judge([rows[0], coarse, *full]).words
    assert "Runner-up: openvino/int8-dynamic, 20 % slower, a similar error." in said
    assert "More exact: openvino/fp32, 3.1 times slower, 3.9 times larger, practically without error." in said
    assert judge(rows[:1]).runner_up == ""


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (0.001, 0.02, "error 20 times smaller"),
        (0.02, 0.001, "error 20 times larger"),
        (0.0011, 0.001, "a similar error"),
        (1e-7, 1e-9, "equally exact"),
        (0.01, 1e-9, "less exact"),
        (1e-9, 0.01, "practically without error"),
    ],
)
def test_errors_are_compared_in_words(one: float, other: float, words: str) -> None:
    assert quality.ratio(*(quality.of(near("a/int8", 1.0, loss), None) for loss in (one, other))) == words


def test_errors_of_unchecked_rows_are_not_compared() -> None:
    assert quality.of(row(check=None), None) is None
    assert quality.ratio(None, quality.of(row(), None)) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1"), (0.9959, "0.9959"), (0.99998, "0.99998"), (0.003064, "0.00306"), (3.8e-8, "3.80e-08")],
)
def test_an_agreement_shows_how_far_from_equal_it_is(value: float, shown: str) -> None:
    assert number_text.near(value) == shown
    assert number_text.measure("cosine", value) == f"cosine {shown}"


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "1 s"), (40.0, "40 s"), (130.0, "2 min"), (7300.0, "2 h")])
def test_the_time_that_is_left_is_rounded(seconds: float, shown: str) -> None:
    assert number_text.duration(seconds) == shown


def test_another_test_may_have_another_winner() -> None:
    rows = [timed("cpu/fp32", 1.0), timed("openvino/fp32", 1.2)]
    rows += [
        row(name, scenario="offline", figures={"throughput": figure("throughput", [rate])}, accuracy=met(0.982))
        for name, rate in (("cpu/fp32", 10.0), ("openvino/fp32", 20.0))
    ]
    found = judge(rows)
    assert found.best is not None
    assert found.best.variant == "cpu/fp32"
    assert "In test batch 32 (offline) openvino/fp32 is 2.0 times as fast." in found.words


def test_random_weights_are_never_called_right() -> None:
    found = judge([made for made in typical().rows if made.random])
    assert "Its weights are random" in found.words
    assert "18.9 ms to the first token, then 2.12 ms per token (471 tokens/s)" in found.words


def test_the_fixture_has_a_wrong_one_that_would_win() -> None:
    tests = contests(encoder())
    assert min(tests[0], key=lambda one: one.cost or 0).variant == "openvino/int8-dynamic"
    chosen = pick(tests[0])
    assert chosen is not None
    assert chosen.variant == "cpu/int8-dynamic"


# Figures in words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (0.2134, "0.213"),
        (12.34, "12.3"),
        (1420.4, "1,420"),
        (-3.21, "-3.21"),
        (1e-9, "1.00e-09"),
        (1e300, "1.00e+300"),
    ],
)
def test_figures_have_three_digits_or_are_a_dash(value: float | None, shown: str) -> None:
    assert number_text.figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 s"),
        (2.5e-7, "0.250 µs"),
        (3.2e-4, "320 µs"),
        (0.0123, "12.3 ms"),
        (0.99999, "1.00 s"),
        (61.0, "61.0 s"),
    ],
)
def test_times_are_in_the_unit_that_fits(value: float, shown: str) -> None:
    assert number_text.seconds(value) == shown


def test_pairs_are_in_one_unit() -> None:
    assert number_text.spread(figure("latency", [0.0081, 0.0083])) == "8.20 ± 0.141 ms"
    assert number_text.spread(figure("throughput", [170.0])) == "170/s"
    assert number_text.spread(figure("throughput", [170.0, 180.0])) == "175 ± 7.07/s"
    assert number_text.spread(figure("decode", [20.0, 22.0])) == "21.0 ± 1.41 tokens/s"
    assert number_text.interval(figure("latency", [0.0081, 0.0083])) == "8.12–8.28 ms"
    assert number_text.interval(None) == "–"


@pytest.mark.parametrize(("ratio", "shown"), [(1.05, "+5.0 %"), (0.9, "−10.0 %"), (4.0, "4.00 ×"), (None, "–")])
def test_changes_have_a_sign(ratio: float | None, shown: str) -> None:
    assert number_text.change(ratio) == shown


def test_text_is_cut_and_what_cannot_be_seen_is_shown() -> None:
    assert number_text.cut("a\u202eb\x00c\ud800d\u200be") == "a\ufffdb\ufffdc\ufffdd\ufffde"
    assert number_text.cut("x" * 1000) == "x" * number_text.LETTERS + "…"
    assert number_text.cut(None) == "–"
    assert number_text.joined([]) == ""
    assert number_text.joined(["a"]) == "a"
    assert number_text.joined(["a", "b", "c"]) == "a, b and c"
    assert number_text.count(1, "row") == "1 row"
    assert number_text.size(-1500) == "−1.5 kB"
