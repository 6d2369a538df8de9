"""Streams, alone and side by side: whatever is done to them, they say what a model says that reads all anew."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupting import interrupted_at
from series_bundles import NORMALIZE, by_hand, make, series, shapes

from edgekit import bundle as bundles
from edgekit.core import Recipe
from edgekit.errors import ClosedError, InputError, ResourceError, SessionBusyError, StateError
from edgekit.runtimes.heads import values
from edgekit.runtimes.ingest import series as ingests
from edgekit.runtimes.streaming import Recurrent, Stream
from edgekit.runtimes.streams import Streams
from edgekit.targets import cpu

FORMS = [(True, True), (False, True), (False, False)]  # counted, batched
NEAR = 1e-4


def opened(folder: Path, name: str = "cpu/fp32 of bundle 1", **form: Any) -> Recurrent:
    bundle = bundles.read(make(folder, **form))
    (graph,) = bundle.variants[0].graphs
    told = {"inputs": list(graph.fed), "batched": graph.batched, **bundle.settings}
    head = values.open(folder, bundle.settings)
    return Recurrent(cpu.open(folder, graph, Recipe(), threads=1), ingests.open(folder, told), values, head, name)


@pytest.fixture(scope="module", params=FORMS, ids=["counted", "uncounted", "one row"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recurrent:
    counted, batched = request.param
    return opened(tmp_path_factory.mktemp("model") / "b.ek", counted=counted, batched=batched)


@pytest.fixture
def fresh(tmp_path: Path) -> Recurrent:
    return opened(tmp_path / "b.ek")


def anew(rows: list[Any]) -> Any:
    """What the LSTM in numpy says of these samples, gaps held, in the user's units."""
    x, held = np.array(rows, np.float64), np.array(NORMALIZE["mean"])
    for row in x:
        row[:] = held = np.where(np.isnan(row), held, row)
    y = by_hand(((x - NORMALIZE["mean"]) / NORMALIZE["std"]).astype(np.float32), 3)
    return y * [2, 1, 3] + [1, 0, -1]


class Known:
    """A stream beside all that it was given."""

    def __init__(self, stream: Any, rows: list[Any]) -> None:
        self.stream, self.rows = stream, rows

    def check(self, found: Any, count: int) -> None:
        np.testing.assert_allclose(found, anew(self.rows)[-count:], atol=NEAR)


def sample(seed: int) -> Any:
    row = series(1, seed)[0]
    return np.where([seed % 5 == 0, seed % 7 == 0], np.nan, row)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "feed", "fork", "save", "reset", "add", "remove", "many", "many", "chunks"]),
        st.integers(0, 999),
        st.integers(1, 9),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# Failures and interrupts


def failing(model: Recurrent, error: BaseException, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's run number `after` from now raises; those behind it do not."""
    run, runs = model.session.run, iter(range(10**6))

    def broken(feeds: Any, states: Any = None) -> Any:
        if next(runs) == after:
            raise error
        return run(feeds, states)

    monkeypatch.setattr(model.session, "run", broken)


def test_a_run_that_fails_leaves_a_stream_as_it_was(fresh: Recurrent, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, stream = series(2), Stream(fresh)
    stream.step(rows[0])
    failing(fresh, ResourceError("out of memory"), 0, monkeypatch)
    with pytest.raises(ResourceError):
        stream.step(rows[1])
    np.testing.assert_allclose(stream.step(rows[1]), anew(list(rows))[-1], atol=NEAR)


@pytest.mark.parametrize(("error", "after"), [(KeyboardInterrupt(), 0), (ResourceError("out of memory"), 1)])
def test_a_state_that_nobody_knows_is_not_used(
    fresh: Recurrent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int
) -> None:
    rows, stream = series(9), Stream(fresh)
    stream.step(rows[0])
    stream.save(tmp_path / "s")
    failing(fresh, error, after, monkeypatch)
    with pytest.raises(type(error)):
        stream.feed(rows)
    uses: list[Callable[[], Any]] = [lambda: stream.step(rows[1]), stream.fork, lambda: stream.save(tmp_path / "t")]
    for use in uses:
        with pytest.raises(StateError, match="interrupted in the middle of a run"):
            use()
    stream.load(tmp_path / "s")
    np.testing.assert_allclose(stream.step(rows[1]), anew(list(rows[:2]))[-1], atol=NEAR)
    stream.reset()
    np.testing.assert_allclose(stream.step(rows[0]), anew(list(rows[:1]))[-1], atol=NEAR)


@pytest.mark.parametrize(("error", "after"), [(KeyboardInterrupt(), 0), (ResourceError("out of memory"), 1)])
def test_streams_whose_results_were_lost_say_so_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int
) -> None:
    model = opened(tmp_path / "b.ek", counted=False)
    rows, many = list(series(3)), Streams(model)
    long, short, other = (many.add() for _ in range(3))
    many.step(dict.fromkeys((long, short, other), rows[0]))
    failing(model, error, after, monkeypatch)
    with pytest.raises(type(error)):
        many.feed({long: rows[1:], short: rows[1:2]})
    lost = [short] if after else [long, short]  # the shorter chunks run first
    for key in lost:
        with pytest.raises(StateError, match=f"stream {key} was interrupted"):
            many.step({key: rows[1]})
        assert many.steps(key) == 1
        many.reset(key)
        np.testing.assert_allclose(many.step({key: rows[0]})[key], anew(rows[:1])[-1], atol=NEAR)
    for key in {long, short, other} - set(lost):
        np.testing.assert_allclose(many.step({key: rows[1]})[key], anew(rows[:2])[-1], atol=NEAR)


@pytest.mark.slow
def test_an_interrupt_leaves_what_is_known_or_said(fresh: Recurrent) -> None:
    """A stream counts its samples: it holds just these, or says that nobody knows."""
    rows = list(series(8))

    def right(stream: Any, count: int) -> None:
        np.testing.assert_allclose(stream(rows[count]), anew(rows[: count + 1])[-1], atol=NEAR)

    for place in itertools.count():
        stream, many = Stream(fresh), Streams(fresh)
        first, second, third = (many.add() for _ in range(3))
        stream.feed(rows[:2])
        many.feed({first: rows[:2], second: rows[:1], third: rows[:2]})

        def work(stream: Stream = stream, many: Streams = many, keys: Any = (first, second, third)) -> None:
            stream.feed(rows[2:7])
            many.step({keys[0]: rows[2], keys[2]: rows[2]})
            many.feed({keys[0]: rows[3:5], keys[1]: rows[1:7]})
            many.reset(keys[2])

        ended = not interrupted_at(place, "edgekit.runtimes.stream", work)
        try:
            right(stream.step, stream.steps)
        except StateError:
            stream.reset()
            right(stream.step, 0)
        for key in (first, second, third):
            try:
                right(lambda row, many=many, key=key: many.step({key: row})[key], many.steps(key))
            except StateError:
                many.reset(key)
                right(lambda row, many=many, key=key: many.step({key: row})[key], 0)
        if ended:
            assert place > 400
            return


def test_one_caller_at_a_time(fresh: Recurrent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun, may_end, run = threading.Event(), threading.Event(), fresh.session.run

    def slow(feeds: Any, states: Any = None) -> Any:
        begun.set()
        assert may_end.wait(30)
        return run(feeds, states)

    stream, many = Stream(fresh), Streams(fresh)
    key = many.add()
    monkeypatch.setattr(fresh.session, "run", slow)
    uses: list[tuple[Callable[[], Any], list[Callable[[], Any]]]] = [
        (lambda: stream.step([1, 2]), [lambda: stream.step([1, 2]), stream.fork, stream.reset, stream.close]),
        (lambda: many.step({key: [1, 2]}), [many.add, lambda: many.remove(key), many.close]),
    ]
    for work, others in uses:
        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(30)
        for other in others:
            with pytest.raises(SessionBusyError, match="another thread"):
                other()
        may_end.set()
        thread.join()
        begun.clear()
        may_end.clear()
    assert (stream.steps, many.steps(key)) == (1, 1)


def test_closed_is_closed(fresh: Recurrent, tmp_path: Path) -> None:
    with Stream(fresh) as stream, Streams(fresh) as many:
        many.add()
    stream.close()
    many.close()
    uses: list[Callable[[], Any]] = [
        lambda: stream.step([1, 2]),
        lambda: stream.feed([[1, 2]]),
        stream.reset,
        stream.fork,
        lambda: stream.save(tmp_path / "s"),
        lambda: stream.load(tmp_path / "s"),
        many.add,
        lambda: many.step({}),
        lambda: many.load(tmp_path / "s"),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert len(many) == 0


def test_a_stream_that_is_not_there(fresh: Recurrent, tmp_path: Path) -> None:
    many = Streams(fresh)
    gone = many.add()
    many.remove(gone)
    uses: list[Callable[[], Any]] = [
        lambda: many.step({gone: [1, 2]}),
        lambda: many.feed({gone: [[1, 2]]}),
        lambda: many.remove(gone),
        lambda: many.reset(gone),
        lambda: many.fork(gone),
        lambda: many.steps(gone),
        lambda: many.save(gone, tmp_path / "s"),
    ]
    for use in uses:
        with pytest.raises(StateError, match=f"there is no stream {gone}"):
            use()


# Saved streams


def test_a_saved_stream_goes_on_side_by_side_and_alone(model: Recurrent, tmp_path: Path) -> None:
    rows, stream, many = list(series(6)), Stream(model), Streams(model)
    stream.feed(rows[:4])
    stream.save(tmp_path / "s")
    key = many.load(tmp_path / "s")
    np.testing.assert_allclose(many.step({key: rows[4]})[key], anew(rows[:5])[-1], atol=NEAR)
    many.save(key, tmp_path / "t")
    stream.load(tmp_path / "t")
    np.testing.assert_allclose(stream.step(rows[5]), anew(rows)[-1], atol=NEAR)


def test_a_saved_stream_belongs_to_its_model(fresh: Recurrent, tmp_path: Path) -> None:
    stream = Stream(fresh)
    stream.step([1, 2])
    stream.save(tmp_path / "s")
    other = Stream(dataclasses.replace(fresh, name="cpu/int8 of bundle 1"))
    with pytest.raises(StateError, match="was saved by cpu/fp32 of bundle 1") as caught:
        other.load(tmp_path / "s")
    assert caught.value.hint == "this is cpu/int8 of bundle 1"
    assert other.steps == 0
    with pytest.raises(ResourceError, match="cannot write"):
        stream.save(tmp_path / "no-such-folder" / "s")


def test_a_file_that_holds_no_stream(fresh: Recurrent, tmp_path: Path) -> None:
    stream, file = Stream(fresh), tmp_path / "s"
    stream.step([1, 2])
    stream.save(file)
    (tmp_path / "torn").write_bytes(file.read_bytes()[:-40])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("torn", "other.npz", "absent"):
        with pytest.raises(StateError, match="holds no saved stream"):
            stream.load(tmp_path / name)
    with np.load(file) as kept:
        arrays = {name: kept[name] for name in kept.files}
    changes: list[tuple[str, Any, str]] = [
        ("stream", arrays["stream"].tobytes().replace(b'"steps": 1', b'"steps": -1'), "does not hold one stream"),
        ("stream", arrays["stream"].tobytes().replace(b"[1.0, 2.0]", b"[1.0]"), "does not hold one stream"),
        ("stream", arrays["stream"].tobytes().replace(b"[1.0, 2.0]", b"[1.0, NaN]"), "does not hold one stream"),
        ("state/h.0", np.zeros((1, 1, 7), np.float32), "h.0"),
    ]
    for name, value, said in changes:
        changed = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        np.savez(tmp_path / "changed.npz", **{**arrays, name: changed})
        with pytest.raises(StateError, match=said):
            stream.load(tmp_path / "changed.npz")
    two = {name: np.concatenate([array] * 2, axis=1) if "state/" in name else array for name, array in arrays.items()}
    np.savez(tmp_path / "two.npz", **two)
    with pytest.raises(StateError, match="does not hold one stream"):
        stream.load(tmp_path / "two.npz")
    assert stream.steps == 1
