"""Files held against the first: which rows belong together, what changed, what is chance, and what breaks a bound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from made_records import check, environment, figure, language_model, memory, record, row, sample, typical

from edgekit.errors import UsageError
from edgekit.reporting import fail_if
from edgekit.reporting.comparison import Change, Comparison, compare, flat, summary, table
from edgekit.reporting.record import Accuracy, Record, Row
from edgekit.reporting.significance import FEWEST, corrected, differ, differ_at


def against(before: Sequence[Row], after: Sequence[Row]) -> Comparison:
    return compare([record(*before), record(*after)], ["before", "after"])


def timed(values: Sequence[float], **changed: Any) -> Row:
    return row(figures={"latency": figure("latency", values)}, **changed)


def only(found: Comparison) -> Change:
    (change,) = found.changes
    return change


# The test


@pytest.mark.parametrize("seed", range(8))
def test_p_is_near_the_exact_one(seed: int) -> None:
    """Exact: of all 924 ways to deal these twelve values into two hands, how many are as uneven as the one dealt."""
    rng = random.Random(seed)
    values = [rng.gauss(0, 1) + (at < 6) * seed / 4 for at in range(12)]
    middle = 6 * 13 / 2
    ranks = {value: rank for rank, value in enumerate(sorted(values), start=1)}
    dealt = abs(sum(ranks[value] for value in values[:6]) - middle)
    hands = [abs(sum(hand) - middle) for hand in combinations(range(1, 13), 6)]
    exact = sum(other >= dealt for other in hands) / len(hands)
    assert differ(values[:6], values[6:]) == pytest.approx(exact, abs=0.02)


def test_p_is_even_where_nothing_differs() -> None:
    """Under the null hypothesis p is spread evenly: at 5 % one in twenty is below."""
    rng = random.Random(3)
    found = [differ([rng.gauss(1, 0.1) for _ in range(30)], [rng.gauss(1, 0.1) for _ in range(30)]) for _ in range(600)]
    share = sum(p is not None and p < 0.05 for p in found) / len(found)
    assert 0.02 < share < 0.08
    assert 0.4 < sum(p for p in found if p is not None) / len(found) < 0.6


def test_p_is_the_same_both_ways_and_with_ties() -> None:
    one, other = [1.0, 2, 2, 3, 3, 3], [2.0, 3, 3, 4, 4]
    assert differ(one, other) == pytest.approx(differ(other, one))
    assert differ([1.0] * 9, [1.0] * 9) == 1.0
    assert differ([1.0] * (FEWEST - 1), [2.0] * 100) is None


def test_holm() -> None:
    assert corrected([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
    assert corrected([0.6, 0.9]) == [1.0, 1.0]
    assert corrected([]) == []


# What belongs together


def test_rows_are_matched_by_name_and_else_by_digest() -> None:
    one, other = timed([1.0]), timed([2.0])
    assert only(against([one], [other])).ratio == 2.0
    renamed = replace(other, bundle="moved.ek")
    assert only(against([one], [renamed])).key.bundle == "minilm.ek"
    stranger = replace(renamed, digest="0" * 64)
    found = against([one], [stranger])
    assert not found.changes
    assert [(match.key.name, names) for match, names in found.missing] == [
        ("minilm.ek cpu/fp32 single", ["before"]),
        ("moved.ek cpu/fp32 single", ["after"]),
    ]
    assert "Only in before: minilm.ek cpu/fp32 single. Only in after: moved.ek" in summary(found)[0]


def test_what_was_not_measured_alike_is_said() -> None:
    changed = timed([1.0], digest="1" * 64, threads=1, options={"A": "1"}, parameters={"batch": 2})
    (note,) = against([timed([1.0])], [changed]).notes
    assert "different exports, different threads, different engine options and different parameters" in note


def test_environments_that_differ_are_listed_by_field() -> None:
    one, other = (
        record(row()),
        record(row(), environment=environment(cpu="Other", governor="powersave", load_before=9.0)),
    )
    other = replace(other, environment=replace(other.environment, software={"numpy": "3.0", "extra": "1"}))
    found = dict(compare([one, other], ["a", "b"]).differences)
    assert found["cpu"] == ("Example Xeon 8481C @ 2.70GHz", "Other")
    assert found["governor"] == ("", "powersave")
    assert found["software numpy"] == ("2.4.1", "3.0")
    assert found["software extra"] == ("", "1")
    assert "load before" not in found
    assert "kernel" not in found
    assert "bandwidth" not in found
    far = record(row(), environment=environment(bandwidth=44e9, memory=None))
    found = dict(
        compare([one, record(row(), environment=environment(bandwidth=22e9)), far], ["a", "b", "c"]).differences
    )
    assert found == {"memory": ("16.7 GB", "16.7 GB", ""), "bandwidth": ("21.5 GB/s", "22.0 GB/s", "44.0 GB/s")}
    assert dict(compare([one, record(row(), environment=environment(bandwidth=22e9))], ["a", "b"]).differences) == {}


# What changed


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "not significant"), (1.02, "small"), (1.2, "worse"), (0.8, "better")]
)
def test_a_change_is_told_by_chance_and_by_size(factor: float, verdict: str) -> None:
    values = sample(0.01, 300)
    change = only(against([timed(values)], [timed([value * factor for value in values])]))
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(factor)


def test_more_is_better_where_it_is() -> None:
    rates = [100.0 + n for n in range(30)]
    one, other = (
        row(scenario="offline", figures={"throughput": figure("throughput", values)})
        for values in (rates, [rate * 1.3 for rate in rates])
    )
    assert only(against([one], [other])).verdict == "better"
    assert only(against([other], [one])).verdict == "worse"


def test_few_runs_and_invalid_rows_tell_nothing() -> None:
    assert only(against([timed([1.0] * 3)], [timed([2.0] * 3)])).verdict == "too few runs"
    wrong = timed([0.1] * 50, invalid="it moved")
    change = only(against([timed([1.0] * 50)], [wrong]))
    assert change.verdict == "invalid"
    assert change.p is None
    assert not change.notable
    assert "Invalid now: minilm.ek cpu/fp32 single." in summary(against([timed([1.0] * 50)], [wrong]))[0]


def test_repetitions_are_samples_of_their_own_where_there_are_enough() -> None:
    first = [timed([1.0 + n / 100] * 200, replicate=n) for n in range(FEWEST)]
    second = [timed([1.005 + n / 100] * 200, replicate=n) for n in range(FEWEST)]
    pooled = only(against(first[:2], second[:2]))
    assert pooled.p is not None
    assert pooled.p < 0.05, "400 runs against 400 say more than they know"
    change = only(against(first, second))
    assert change.p is not None
    assert change.p > 0.05
    assert change.before == pytest.approx(1.02)


def test_sizes_and_accuracy_are_told_where_they_differ() -> None:
    met = Accuracy(metric="accuracy", value=0.98, trained=0.98, items=100)
    one = timed([1.0] * 20, accuracy=met)
    other = replace(one, bytes=50_000_000, accuracy=replace(met, value=0.97), memory=memory(70_000_000, 95_000_000))
    found = {change.name: change for change in against([one], [other]).changes}
    assert set(found) == {"latency", "size", "accuracy", "peak memory"}
    assert found["size"].verdict == "better"
    assert found["accuracy"].verdict == "worse"
    assert found["peak memory"].verdict == "small"
    assert found["accuracy"].text(0.97) == "97.0 %"


def test_summary_and_table_name_what_matters() -> None:
    found = compare([typical(), typical(1.2)], ["a", "b"])
    (said,) = summary(found)
    assert said.startswith("b compared with a: 18 figures of valid rows that both have. Worse: ")
    assert "+20.0 %, and 9 more. The other 6 did not change significantly" in said
    text = table(found)
    assert "minilm.ek openvino/int8-dynamic single" in text
    assert text.splitlines()[0].split() == ["row", "figure", "a", "b", "change", "p", "verdict"]
    three = table(compare([typical(), typical(1.2), typical()], ["a", "b", "c"]))
    assert three.splitlines()[0].split() == ["row", "file", "figure", "a", "the", "other", "change", "p", "verdict"]
    assert flat(found.changes[0], found.names)["figure"] == "latency"


def test_more_than_two_files() -> None:
    found = compare([record(timed([value] * 9)) for value in (1.0, 2.0, 0.5)], ["a", "b", "c"])
    assert [(change.file, change.ratio) for change in found.changes] == [(1, 2.0), (2, 0.5)]
    assert len(summary(found)) == 2


# Bounds


def broken(text: str, before: Record, after: Record) -> list[str]:
    return [
        f"{each.row}: {each.why}" for each in fail_if.judge(fail_if.parse(text), compare([before, after], ["a", "b"]))
    ]


def models(**changed: Any) -> Record:
    return record(language_model("cpu/int8", 20.0, 100_000_000, **changed), row())


def test_a_bound_names_the_rows_that_break_it() -> None:
    slow = record(language_model("cpu/int8", 22.0, 100_000_000), row())
    assert broken("tpot_p50>+5%", models(), models()) == []
    (why,) = broken("tpot_p50>+5%", models(), slow)
    assert why.startswith("qwen3-0.6b.ek cpu/int8 pp512+tg128: 19.9 ms before, 21.9 ms now")
    assert "(+10.0 %)" in why
    assert broken("tpot_p50>+15%", models(), slow) == []
    assert broken("decode<-5%", models(), slow) != []
    assert broken("decode<-5%", slow, models()) == []
    assert broken("ttft_p50>0.1s", models(), slow)[0].endswith("allowed is 100 ms")
    assert broken("ttft_p50>500ms", models(), slow) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("peak_rss>100MB", 2),
        ("peak_rss>10GB", 0),
        ("bytes>100MB", 1),
        ("uss_after_runs>1MB", 2),
        ("accuracy<0.99", 1),
        ("accuracy<98%", 0),
        ("accuracy<99%", 1),
        ("accuracy<-1%", 0),
        ("agreement<0.999", 2),
        ("load>1s", 0),
        ("slope>10kB", 2),
    ],
)
def test_what_a_row_has_once(text: str, count: int) -> None:
    met = Accuracy(metric="accuracy", value=0.98, trained=0.98, items=100)
    made = record(language_model("cpu/int8", 20.0, 100_000_000), row(accuracy=met))
    assert len(broken(text, made, made)) == count


def test_what_is_missing_invalid_or_not_measured_has_not_passed() -> None:
    gone = record(language_model("cpu/int8", 20.0, 100_000_000))
    assert broken("latency>+5%", models(), gone) == ["minilm.ek cpu/fp32 single: missing"]
    wrong = record(row(check=check("cpu/fp32", ok=False), invalid="it moved", figures={}))
    assert broken("latency>+5%", record(row()), wrong) == ["minilm.ek cpu/fp32 single: invalid: it moved"]
    assert "the first file's row is invalid" in broken("latency>+5%", replace_figures(wrong, row()), record(row()))[0]
    few = record(timed([1.0] * 10))
    assert "too few runs" in broken("latency_p99>+5%", record(row()), few)[0]
    assert "nothing to compare with" in broken("latency_p99>+5%", few, record(row()))[0]
    assert broken("rtf>1", models(), models()) == ["no row: no row has rtf"]
    assert "nothing to compare with" in broken("latency>+5%", record(timed([0.0])), record(timed([0.0])))[0]


def replace_figures(made: Record, source: Row) -> Record:
    return replace(made, rows=tuple(replace(each, figures=source.figures) for each in made.rows))


def judged(text: str, before: Sequence[Row], after: Sequence[Row]) -> fail_if.Failure:
    (one,) = fail_if.judge(fail_if.parse(text), against(list(before), list(after)))
    return one


NOISY = [0.8, 0.9, 1.0, 1.1, 1.2, 1.3]


def test_a_relative_bound_does_not_fail_on_noise() -> None:
    before, noisy = timed(NOISY), timed([value * 1.07 for value in NOISY])
    one = judged("latency_p50>+5%", [before], [noisy])
    assert "+7.0 %" in one.why
    assert one.excuse.startswith("not failed: not significant (p ")
    assert one.excuse.endswith("end the bound with ! to fail in any case")
    assert judged("latency_p50>+5%!", [before], [noisy]).excuse == ""
    assert judged("latency_p50>+5%", [before], [timed([value * 3 for value in NOISY])]).excuse == ""
    shown = against([before], [noisy]).changes[0]
    assert shown.verdict == "not significant", "the table says the same"


def test_a_relative_bound_needs_enough_runs() -> None:
    assert "fewer than 5 runs" in judged("latency>+5%", [timed([1.0] * 3)], [timed([2.0] * 3)]).excuse
    assert "a single run" in judged("latency_max>+5%", [timed([1.0] * 9)], [timed([1.0] * 8 + [2.0])]).excuse


@pytest.mark.parametrize(
    ("bound", "before", "after", "excused"),
    [
        ("latency>+5%", (), ("others used 1.6 cores",), True),
        ("latency>+5%", ("others used 1.6 cores",), (), False),
        ("latency>+5%!", (), ("others used 1.6 cores",), False),
        ("bytes>+5%", (), ("others used 1.6 cores",), False),
    ],
)
def test_only_a_disturbance_of_the_slower_side_excuses(
    bound: str, before: tuple[str, ...], after: tuple[str, ...], excused: bool
) -> None:
    first = timed([1.0, 1.01] * 10, disturbed=before, bytes=1000)
    second = timed([1.5, 1.51] * 10, disturbed=after, bytes=2000)
    assert bool(judged(bound, [first], [second]).excuse) is excused


def test_replicates_are_disturbed_when_half_of_them_are() -> None:
    first = [timed([1.0, 1.01] * 10, replicate=n) for n in range(3)]
    second = [timed([1.5, 1.51] * 10, replicate=n, disturbed=("stolen time",) * (n < 1)) for n in range(3)]
    assert judged("latency>+5%", first, second).excuse == ""
    more = [replace(each, disturbed=("stolen time",) * (each.replicate < 2)) for each in second]
    assert "was disturbed (stolen time)" in judged("latency>+5%", first, more).excuse


def test_a_bound_on_a_percentile_tests_the_percentile() -> None:
    steady = [1.0 + n / 10_000 for n in range(200)]
    tail = [*steady[:160], *([2.0] * 40)]
    assert judged("latency_p90>+5%", [timed(steady)], [timed(tail)]).excuse == ""
    few = [*steady[:176], *([2.0] * 24)]
    assert "not significant" in judged("latency_p90>+5%", [timed([*steady[:182], *([2.0] * 18)])], [timed(few)]).excuse


@pytest.mark.parametrize("rank", [90, 95])
def test_p_of_a_percentile_is_even_where_nothing_differs(rank: int) -> None:
    rng = random.Random(7)
    p_values = [
        differ_at(rank, [rng.random() for _ in range(300)], [rng.random() for _ in range(300)]) or 0.0
        for _ in range(400)
    ]
    assert sum(p < 0.05 for p in p_values) / len(p_values) < 0.06
    assert differ_at(rank, [1.0] * 4, [1.0] * 9) is None
    assert differ_at(rank, [1.0] * 9, [1.0] * 9) == 1.0


def test_a_new_row_has_nothing_to_be_held_against() -> None:
    assert broken("latency>+5%", record(language_model("cpu/int8", 20.0, 1_000_000)), models()) == []
    assert broken("latency>1ns", record(language_model("cpu/int8", 20.0, 1_000_000)), models()) != []


def test_one_file_by_itself() -> None:
    found = compare([models()], ["a"])
    assert [str(each) for each in fail_if.judge(fail_if.parse("peak_rss>1TB"), found)] == []
    (failure,) = fail_if.judge(fail_if.parse("latency>0.1ms"), found)
    assert str(failure).startswith("minilm.ek cpu/fp32 single in a: 1.")
    assert str(failure).endswith("(latency>0.1ms)")


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [
        ("tpot_p50>+5%", 0.05, True),
        (" throughput_mean < -2.5% ", -0.025, True),
        ("ttft>500 ms", 0.5, False),
        ("itl_p99>250us", 250e-6, False),
        ("peak_rss>1.5GiB", 1.5 * 2**30, False),
        ("peak_rss>512M", 2.0**29, False),
        ("bytes>300", 300, False),
        ("decode<20tokens/s", 20, False),
        ("throughput<20/s", 20, False),
        ("accuracy<0.99", 0.99, False),
        ("energy>2.5J", 2.5, False),
        ("rtf>0.5", 0.5, False),
    ],
)
def test_bounds_are_understood(text: str, value: float, relative: bool) -> None:
    found = fail_if.parse(text)
    assert found.value == pytest.approx(value)
    assert found.relative is relative
    assert found.above is (">" in text)


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("", 1, "write METRIC>VALUE"),
        ("tpot", 5, "write METRIC>VALUE"),
        ("tpt_p50>+5%", 1, "did you mean 'tpot_p50'?"),
        ("xyzzy>+5%", 1, "known: load, "),
        ("tpot_p42>+5%", 6, "known: p50, median"),
        ("tpot>", 6, "write METRIC>VALUE"),
        ("tpot>fast", 6, "write METRIC>VALUE"),
        ("tpot>1e3s", 7, "write it with s, ms"),
        ("tpot>+5", 6, "write METRIC>VALUE"),
        ("tpot>5%", 7, "or +5% or -5%"),
        ("tpot>5", 7, "write it with s, ms"),
        ("tpot>5MB", 7, "write it with s, ms"),
        ("rtf>5s", 6, "write it with no unit"),
        ("tpot>=5s", 6, "write METRIC>VALUE"),
        ("tpot>" + "9" * 400 + "s", 6, "write METRIC>VALUE"),
        ("tpot>5ms!", 9, "leave ! out"),
        ("tpot>+5%!!", 6, "write METRIC>VALUE"),
    ],
)
def test_a_bad_bound_is_refused_with_its_column(text: str, column: int, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        fail_if.parse(text)
    assert caught.value.details["column"] == column
    assert f"at column {column}" in caught.value.message
    assert hint in caught.value.hint
