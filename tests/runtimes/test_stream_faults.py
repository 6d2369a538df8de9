"""Streams whose runs fail or are interrupted, that are closed, asked from two threads, or read from a torn file."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupting import interrupted_at
from opened_streams import NEAR, anew, fresh, model, opened
from series_bundles import series

from edgekit.errors import ClosedError, ResourceError, SessionBusyError, StateError, UsageError
from edgekit.runtimes.stream import Recurrent, Stream
from edgekit.runtimes.streams import Streams

__all__ = ["fresh", "model"]


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
        assert may_end.wait(300)
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
        assert begun.wait(300)
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
    with pytest.raises(UsageError, match="no folder"):
        stream.save(tmp_path / "no-such-folder" / "s")


def test_a_file_that_holds_no_stream(fresh: Recurrent, tmp_path: Path) -> None:
    stream, file = Stream(fresh), tmp_path / "s"
    stream.step([1, 2])
    stream.save(file)
    (tmp_path / "torn").write_bytes(file.read_bytes()[:-40])
    (tmp_path / "longer").write_bytes(file.read_bytes() + b"more")
    os.mkfifo(tmp_path / "pipe")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("torn", "longer", "pipe", "other.npz", "absent"):
        with pytest.raises(StateError, match="is not a saved stream"):
            stream.load(tmp_path / name)
    with np.load(file) as kept:
        arrays = {name: kept[name] for name in kept.files}
    changes: list[tuple[str, Any, str]] = [
        ("told", arrays["told"].tobytes().replace(b'"steps": 1', b'"steps": -1'), "does not hold one stream"),
        ("told", arrays["told"].tobytes().replace(b"[1.0, 2.0]", b"[1.0]"), "does not hold one stream"),
        ("told", arrays["told"].tobytes().replace(b"[1.0, 2.0]", b"[1.0, NaN]"), "does not hold one stream"),
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
