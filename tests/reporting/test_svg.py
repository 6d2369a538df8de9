"""The plots: scales map their ends, labels keep apart, nothing that was measured is hidden."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from edgekit.reporting import bars, svg


def test_scale_maps_its_ends_and_ticks_lie_inside() -> None:
    rng = random.Random(7)
    for log in (False, True):
        for _ in range(300):
            low = 10 ** rng.uniform(-4, 4)
            scale = svg.Scale(low, low * (1 + 10 ** rng.uniform(-1, 6)), 50, 350, log=log)
            assert scale.at(scale.low) == pytest.approx(50)
            assert scale.at(scale.high) == pytest.approx(350)
            ticks = scale.ticks()
            assert len(ticks) <= 8
            assert all(50 - 1e-6 <= scale.at(tick) <= 350 + 1e-6 for tick in ticks)
            assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("seed", range(40))
def test_labels_keep_apart(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    near = rng.choice((0.01, 0.3, 3.0))
    dots = [
        svg.Dot(
            f"target{number}/int8-dyn", "400.0 kB", 1 + near * rng.random(), 98 + near * rng.random(), 4, number, False
        )
        for number in range(count)
    ]
    text = svg.scatter("k", "t", "a", dots, "ms", "%", y_most=100)
    boxes = [_box(*found) for found in re.findall(r'<text class="name( end| mid)?" x="([\d.]+)" y="([\d.]+)">', text)]
    assert len(boxes) == count
    for (left, top, right, bottom), (others_left, others_top, others_right, others_bottom) in itertools.combinations(
        boxes, 2
    ):
        apart = right <= others_left or others_right <= left or bottom <= others_top or others_bottom <= top
        assert apart
    assert all(left >= svg.LEFT - 1 and right <= svg.WIDTH for left, _, right, _ in boxes)


def _box(side: str, x: str, y: str) -> tuple[float, float, float, float]:
    """Where a label's two lines are, by what the plot itself takes a letter to be wide."""
    width = len("target0/int8-dyn") * svg.LETTER - 0.2  # what the rounding of coordinates may cost
    left = float(x) - {"": 0.0, " mid": width / 2, " end": width}[side]
    return left, float(y) - 9, left + width, float(y) + svg.LINE


def test_a_strip_keeps_the_slowest_run_and_draws_so_many() -> None:
    values = [1.0 + number / 1000 for number in range(5000)] + [900.0]
    text = svg.strips("k", "t", "a", [svg.Strip("a", "", values, None, 0, False)], "ms")
    path = re.search(r'dots" d="([^"]+)"', text)
    assert path is not None
    places = [float(x) for x in re.findall(r"M([\d.]+) ", path[1])]
    assert len(places) == svg.SHOWN
    assert max(places) > max(sorted(places)[:-1]) + 100


def numbers(pattern: str, text: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, text)]


def test_bars_are_as_long_as_their_values_and_whiskers_reach() -> None:
    rows = [bars.Bar(f"row{n}", "", value, (value * 0.9, value * 1.1), 0, False) for n, value in enumerate((1.0, 2.0))]
    text = bars.bars("k", "t", "a", rows, "ms")
    short, long = numbers(r'width="([\d.]+)" height="11"', text)
    assert long == pytest.approx(2 * short, rel=0.01)
    assert text.count('class="mark"') == 2
    assert "mark" not in bars.bars("k", "t", "a", [bars.Bar("a", "", 1.0, None, 0, False)], "ms")


def test_phases_show_own_memory_within_all_of_it_and_the_forecast() -> None:
    block = bars.Block("cpu/fp32", "", [("loaded", 50.0, 100.0), ("closed", 0.0, 0.0)], 110.0, 120.0, 0, False)
    text = bars.phases("k", "t", "a", [block], "MB")
    whole, own, *rest = numbers(r'width="([\d.]+)" height="9"', text)
    assert whole == pytest.approx(2 * own, rel=0.01)
    assert rest == [0.0, 0.0]
    peak = numbers(r'class="mark" d="M([\d.]+)', text)
    forecast = numbers(r'class="forecast" d="M([\d.]+)', text)
    assert forecast[0] > peak[0] > bars.PHASE_LEFT + whole
    assert "forecast" not in bars.phases("k", "t", "a", [bars.Block("a", "", block.phases, None, None, 0, False)], "MB")


def test_courses_begin_at_zero_and_go_on_for_as_long_as_they_took() -> None:
    text = bars.courses("k", "t", "a", [bars.Course("a", "", 5.0, [10.0, 5.0], 0, True)], "seconds", "tokens/s")
    ((x1, y1, x2, y2),) = re.findall(r'course" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', text)
    assert float(x2) > float(x1)
    assert float(y2) > float(y1), "lower on the page is less"
    assert "s0 hollow course" in text
    assert re.search(r'text class="t mid" x="46.0" y="\d+">0<', text)


def test_a_roof_goes_through_its_points_and_lies_above_what_is_below_it() -> None:
    dots = [svg.Dot("a", "", 100.0, 5.0, 1, 0, False), svg.Dot("b", "", 1000.0, 0.5, 1, 0, False)]
    text = svg.scatter("k", "t", "a", dots, "MB", "tokens/s", roofs=[1000.0])
    ((x1, y1, x2, y2),) = re.findall(r'forecast" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', text)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)]
    for x, y in places:
        roof = float(y1) + (float(y2) - float(y1)) * (x - float(x1)) / (float(x2) - float(x1))
        assert roof < y, "half of what the roof allows is below it"
    assert "forecast" not in svg.scatter("k", "t", "a", dots, "MB", "tokens/s")


def test_the_last_tick_is_not_cut_off() -> None:
    text = bars.bars("k", "t", "a", [bars.Bar("a", "", 14_000.0, None, 0, False)], "ms")
    for x, label in re.findall(r'class="t mid" x="([\d.]+)" y="[\d.]+">([\d.e+]+)<', text):
        assert float(x) + len(label) * svg.LETTER / 2 <= svg.WIDTH + 0.1


@pytest.mark.parametrize("value", [None, 0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_what_cannot_stand_on_an_axis(value: float | None) -> None:
    assert not bars.drawable(value)
    assert bars.drawable(1e-3)
