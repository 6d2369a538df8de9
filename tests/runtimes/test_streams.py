"""Streams, alone and side by side: whatever is done to them, they say what a model says that reads all anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opened_streams import NEAR, Known, anew, fresh, model, opened, sample
from property_tests import examples
from series_bundles import series, shapes

from edgekit.errors import InputError
from edgekit.runtimes.stream import Recurrent, Stream
from edgekit.runtimes.streams import Streams

__all__ = ["fresh", "model"]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "feed", "fork", "save", "reset", "add", "remove", "many", "many", "chunks"]),
        st.integers(0, 999),
        st.integers(1, 9),
    ),
    max_size=25,
)


@examples(40)
@given(actions=ACTIONS)
def test_a_stream_is_what_it_was_given(model: Recurrent, tmp_path: Path, actions: Any) -> None:
    known = [Known(Stream(model), [])]
    for action, seed, count in actions:
        one = known[seed % len(known)]
        if action == "fork":
            known.append(Known(one.stream.fork(), list(one.rows)))
        elif action == "save":
            one.stream.save(tmp_path / "s")
            loaded = Stream(model)
            loaded.step(sample(seed))
            loaded.load(tmp_path / "s")
            known.append(Known(loaded, list(one.rows)))
        elif action == "reset":
            one.stream.reset()
            one.rows.clear()
        elif action == "feed":
            chunk = [sample(seed + number) for number in range(count)]
            one.rows += chunk
            one.check(one.stream.feed(np.array(chunk)), count)
        else:
            one.rows.append(sample(seed))
            one.check([one.stream.step(one.rows[-1])], 1)
        assert one.stream.steps == len(one.rows)


@examples(50)
@given(actions=ACTIONS)
def test_streams_side_by_side_are_each_alone(model: Recurrent, tmp_path: Path, actions: Any) -> None:
    many, given = Streams(model), dict[int, list[Any]]()
    for action, seed, count in actions:
        keys = list(given)
        if action == "add" or not keys:
            given[many.add()] = []
            continue
        key = keys[seed % len(keys)]
        chosen = [each for place, each in enumerate(keys) if (seed >> place) & 1] or [key]
        if action == "fork":
            given[many.fork(key)] = list(given[key])
        elif action == "save":
            many.save(key, tmp_path / "s")
            given[many.load(tmp_path / "s")] = list(given[key])
        elif action == "reset":
            many.reset(key)
            given[key] = []
        elif action == "remove":
            many.remove(key)
            del given[key]
        elif action in ("feed", "chunks"):
            chunks = {each: [sample(seed + each + n) for n in range(1 + (count + each) % 10)] for each in chosen}
            found = many.feed(chunks)
            assert list(found) == chosen
            for each, chunk in chunks.items():
                given[each] += chunk
                np.testing.assert_allclose(found[each], anew(given[each])[-len(chunk) :], atol=NEAR)
        else:
            samples = {each: sample(seed + each) for each in (chosen if action == "step" else keys)}
            found = many.step(samples)
            assert list(found) == list(samples)
            for each, row in samples.items():
                given[each].append(row)
                np.testing.assert_allclose(found[each], anew(given[each])[-1], atol=NEAR)
        assert many.keys == tuple(given)
        assert [many.steps(each) for each in given] == [len(rows) for rows in given.values()]


def test_a_hundred_streams_join_and_leave(fresh: Recurrent) -> None:
    """Each comes, and is silent, when it likes; what it hears last is what it would have heard alone."""
    rng, many = np.random.default_rng(0), Streams(fresh)
    given: dict[int, list[Any]] = {}
    last: dict[int, Any] = {}
    ended = 0
    for tick in range(60):
        for _ in range(int(rng.integers(0, 10)) if tick < 40 else 0):
            given[many.add()] = []
        leaving = [key for key, rows in given.items() if len(rows) > 9 and rng.random() < 0.02]
        for key in leaving if tick < 59 else list(given):
            rows = given.pop(key)
            np.testing.assert_allclose(last[key], anew(rows)[-1], atol=NEAR)
            many.remove(key)
            ended += 1
        samples = {key: series(1, 1000 * tick + key)[0] for key in given if rng.random() < 0.9}
        last |= many.step(samples)
        for key, row in samples.items():
            given[key].append(row)
        assert len(many) == len(given)
    assert (ended > 150, len(many), len(many._groups)) == (True, 0, 0)


def test_streams_that_stay_together_are_one_run_and_are_not_touched(
    fresh: Recurrent, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, many = shapes(fresh.session, monkeypatch), Streams(fresh)
    keys = [many.add() for _ in range(100)]
    many.step({key: [1.0, 2.0] for key in keys})
    state = many._groups[keys[0]].state
    many.step({key: [1.0, 2.0] for key in reversed(keys)})
    assert seen == [(100, 1, 2)] * 2
    assert many._groups[keys[0]].state is state


def test_more_streams_than_one_run_takes(fresh: Recurrent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.runtimes.streams.TOGETHER", 3)
    seen, many, rows = shapes(fresh.session, monkeypatch), Streams(fresh), series(8)
    found = many.step({many.add(): row for row in rows})
    assert [shape[0] for shape in seen] == [3, 3, 2]
    for key, row in enumerate(rows):
        np.testing.assert_allclose(found[key], anew([row])[0], atol=NEAR)


def test_results_of_the_end_are_the_last(tmp_path: Path) -> None:
    model = opened(tmp_path / "b.ek", per="end")
    rows, stream, many = series(11), Stream(model), Streams(model)
    wanted = anew(list(rows))
    assert stream.feed(rows[:9]).shape == (1, 3)
    np.testing.assert_allclose(stream.step(rows[9]), wanted[9], atol=NEAR)
    first, second = many.add(), many.add()
    found = many.feed({first: rows, second: rows[:3]})
    np.testing.assert_allclose(found[first], wanted[-1:], atol=NEAR)
    np.testing.assert_allclose(found[second], wanted[2:3], atol=NEAR)
    assert many.feed({}) == many.step({}) == {}


def test_a_sample_that_is_wrong_changes_nothing(model: Recurrent) -> None:
    rows, stream, many = list(series(3)), Stream(model), Streams(model)
    keys = [many.add(), many.add()]
    stream.step(rows[0])
    many.step(dict.fromkeys(keys, rows[0]))
    for wrong in ([1.0, float("inf")], [1.0], "no"):
        with pytest.raises(InputError):
            stream.step(wrong)
        with pytest.raises(InputError):
            stream.feed([rows[1], wrong])
        with pytest.raises(InputError):
            many.step({keys[0]: rows[1], keys[1]: wrong})
        with pytest.raises(InputError):
            many.feed({keys[0]: [rows[1]], keys[1]: [wrong]})
    wanted = anew(rows[:2])[-1]
    np.testing.assert_allclose(stream.step(rows[1]), wanted, atol=NEAR)
    for found in many.step(dict.fromkeys(keys, rows[1])).values():
        np.testing.assert_allclose(found, wanted, atol=NEAR)


def test_what_was_given_may_change_afterwards(fresh: Recurrent) -> None:
    rows, stream = series(2), Stream(fresh)
    wanted = anew([rows[0], rows[1], [np.nan, np.nan]])[-1]
    stream.feed(rows)
    rows[:] = 99
    np.testing.assert_allclose(stream.step([None, None]), wanted, atol=NEAR)
