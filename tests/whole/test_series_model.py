"""A Model of a recurrent bundle: whole series, its own stream, sources of every kind, many streams, saved ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_bundles
from series_bundles import NORMALIZE, by_hand, series

import edgekit
from edgekit import registry
from edgekit.errors import ClosedError, InputError, StateError, UnsupportedError
from edgekit.model import Model
from edgekit.verify import verify

NEAR = 1e-4
HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
Make = Callable[..., Model]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens a bundle of such a head and form."""
    made: list[Model] = []

    def opened(head: str = "values", *, target: str = "cpu", **form: Any) -> Model:
        folder = series_bundles.make(tmp_path / f"{len(made)}.ek", head, **form)
        made.append(edgekit.load(folder, target=target, threads=1))
        return made[-1]

    yield opened
    for model in made:
        model.close()


def numbers(rows: Any, results: int = 3) -> Any:
    """What the graph gives, by hand."""
    return by_hand(((rows - NORMALIZE["mean"]) / NORMALIZE["std"]).astype(np.float32), results)


def valued(rows: Any) -> Any:
    return numbers(rows) * [2, 1, 3] + [1, 0, -1]


def test_one_series_or_several(make: Make) -> None:
    model, rows = make(), [series(n, n) for n in (5, 12, 5, 70)]
    assert model.methods == ("predict", "step", "stream", "astream", "session", "streams")
    alone = model.predict(rows[1])
    np.testing.assert_allclose(alone, valued(rows[1]), atol=NEAR)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(model.predict(rows[1].tolist()), alone, atol=NEAR)
    for found, wanted in zip(model.predict(rows), map(valued, rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=NEAR)
    assert model.predict([]) == []
    assert [found.shape for found in model.run(rows)] == [(5, 3), (12, 3), (5, 3), (70, 3)]
    (only,) = model.run(rows[1])
    np.testing.assert_allclose(only, alone, atol=NEAR)


@pytest.mark.parametrize("target", HERE)
def test_every_target_gives_the_same(make: Make, target: str) -> None:
    """Without `counts`: this LSTM counts by `sequence_lens`, which OpenVINO does not heed."""
    model, rows = make(target=target, counted=False), [series(n, n) for n in (5, 12, 5)]
    for found, row in zip(model.predict(rows), rows, strict=True):
        np.testing.assert_allclose(found, valued(row), atol=NEAR)
    np.testing.assert_allclose(model.outputs([rows[1]])[0], numbers(rows[1]), atol=NEAR)
    np.testing.assert_allclose(list(model.stream(rows[1])), valued(rows[1]), atol=NEAR)
    with model.streams() as many:
        keys = [many.add() for _ in rows]
        for key, found in many.feed(dict(zip(keys, rows))).items():
            np.testing.assert_allclose(found, valued(rows[key]), atol=NEAR)
        last = [rows[1][0]]
        for key, found in many.step(dict.fromkeys(keys, last[0])).items():
            np.testing.assert_allclose(found, valued(np.concatenate([rows[key], last]))[-1], atol=NEAR)


def test_every_head_answers_series_and_steps(make: Make) -> None:
    rows = series(9)
    forecast = make("forecast")
    answer = forecast.forecast(rows)
    wanted = (numbers(rows, 6)[-1] * 0.5 + 2).reshape(2, 1, 3)
    np.testing.assert_allclose(answer.values, wanted[..., 1], atol=NEAR)
    np.testing.assert_allclose(answer.high, wanted[..., 2], atol=NEAR)
    np.testing.assert_allclose(list(forecast.stream(rows))[-1].low, answer.low, atol=NEAR)
    labels = make("labels")
    told = labels.classify(rows, top_k=1)
    names = labels.bundle.settings["labels"]
    assert [step[0].label for step in told] == [names[best] for best in numbers(rows).argmax(axis=1)]
    assert [step[0].label for step in labels.stream(rows)] == [step[0].label for step in told]
    anomaly = make("anomaly")
    scores = numbers(rows, 1)[:, 0]
    assert [one.flagged for one in anomaly.detect_anomalies(rows)] == (scores > 0.1).tolist()
    limit = float(np.median(scores))
    found = anomaly.detect_anomalies([rows, rows], threshold=limit)[1]
    assert [one.flagged for one in found] == (scores > limit).tolist()
    with pytest.raises(UnsupportedError, match=r"no forecast\(\)"):
        anomaly.forecast(rows)


def test_an_end_has_one_result(make: Make) -> None:
    rows = series(9)
    model = make(per="end")
    np.testing.assert_allclose(model.predict(rows), valued(rows)[-1], atol=NEAR)
    label = make("labels", per="end").classify([rows, rows[:3]])
    assert [len(found) for found in label] == [3, 3]
    assert isinstance(label[0][0].score, float)


def test_timestamps_bring_a_series_to_the_models_rate(make: Make) -> None:
    model, rows = make(rate=10), series(5)
    fine = np.stack([np.interp(np.arange(9) / 10, np.arange(5) / 5, column) for column in rows.T], axis=1)
    times = np.arange(5) / 5
    found = model.predict(rows, timestamps=times)
    np.testing.assert_allclose(found, valued(fine), atol=NEAR)
    several = model.predict([rows, rows], timestamps=[times, times * 2])
    assert [len(each) for each in several] == [9, 17]
    np.testing.assert_allclose(list(model.stream(zip(times, rows), timed=True)), found, atol=NEAR)
    np.testing.assert_allclose(list(model.stream(rows, rate=5)), found, atol=NEAR)
    with pytest.raises(InputError, match="row 1: the timestamp 0 is not after 0"):
        model.predict(rows, timestamps=times * 0)


def test_step_goes_on_from_step(make: Make) -> None:
    model, rows = make(), series(6)
    found = [model.step(row) for row in rows[:3]]
    assert model.predict(rows).shape == (6, 3)  # which is none of its stream
    found += [model.step(row) for row in rows[3:]]
    np.testing.assert_allclose(found, valued(rows), atol=NEAR)


def test_a_source_is_read_no_further_than_its_results(make: Make) -> None:
    model, rows, read = make(), series(50), 0

    def source() -> Iterator[Any]:
        nonlocal read
        for row in rows:
            read += 1
            yield row

    results = model.stream(source())
    assert read == 0
    for number in range(1, 6):
        np.testing.assert_allclose(next(results), valued(rows[:number])[-1], atol=NEAR)
        assert read == number
    results.close()  # type: ignore[attr-defined]
    assert (read, list(results)) == (5, [])


def test_a_source_without_end_needs_no_more_memory(make: Make) -> None:
    """Nothing of what was read is kept: each sample is let go as soon as the next one is asked for."""
    import weakref

    class Row(list[float]):
        """A list that can be looked for."""

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    Row.__hash__ = object.__hash__  # type: ignore[assignment]

    def endless() -> Iterator[Any]:
        while True:
            row = Row([1.0, 2.0])
            alive.add(row)
            yield row
            del row

    most = 0
    for _, _ in zip(range(200), make().stream(endless())):
        most = max(most, len(alive))
    assert most <= 2


def test_what_is_wrong_with_a_stream_is_said_when_it_comes(make: Make) -> None:
    model = make()
    results = model.stream([[1, 2], [1, 2, 3]])
    assert next(results).shape == (3,)
    with pytest.raises(InputError, match=r"the sample has the shape \[3\]"):
        next(results)
    with pytest.raises(InputError, match="has no rate"):
        model.stream([], timed=True)  # said at once


def test_sessions_and_streams(make: Make, tmp_path: Path) -> None:
    model, rows = make(), series(8)
    with model.session() as stream:
        stream.feed(rows[:5])
        stream.save(tmp_path / "s")
        fork = stream.fork()
    with model.streams() as many:
        key = many.load(tmp_path / "s")
        found = many.step({many.add(): rows[0], key: rows[5]})
        np.testing.assert_allclose(found[key], valued(rows[:6])[-1], atol=NEAR)
    np.testing.assert_allclose(fork.step(rows[5]), valued(rows[:6])[-1], atol=NEAR)
    with pytest.raises(StateError, match="was saved by cpu/fp32 of bundle"):
        make(per="end").session().load(tmp_path / "s")
    model.close()
    with pytest.raises(ClosedError):
        fork.step(rows[6])


def test_a_model_that_reads_from_both_ends_does_not_stream(make: Make) -> None:
    for counted in (True, False):
        model, rows = make(bidirectional=True, counted=counted), [series(n, n) for n in (4, 9, 9)]
        assert model.methods == ("predict",)
        found = model.predict(rows)
        for row, each in zip(rows, found, strict=True):
            assert each.shape == (len(row), 3)
            np.testing.assert_allclose(each, model.predict(row), atol=NEAR)
        # The forward half of its last step, and the backward half of its first, have each read all.
        assert not np.allclose(model.predict(rows[1][:5]), found[1][:5], atol=1e-3)
        uses: dict[str, Callable[[Model], Any]] = {
            "step": lambda model: model.step([1, 2]),
            "stream": lambda model: model.stream([]),
            "session": lambda model: model.session(),
            "streams": lambda model: model.streams(),
            "astream": lambda model: asyncio.run(anext(model.astream(samples([])))),  # type: ignore[arg-type]
        }
        for name, use in uses.items():
            with pytest.raises(UnsupportedError, match=rf"no {name}\(\): it reads a series from both ends"):
                use(model)


def test_other_models_have_no_streams(tmp_path: Path) -> None:
    import small_bundles

    with edgekit.load(small_bundles.make(tmp_path / "e.ek")) as model:
        with pytest.raises(UnsupportedError, match=r"is made for feature-extraction and has no session\(\)"):
            model.session()
        with pytest.raises(UnsupportedError, match=r"no predict\(\)"):
            model.predict([1, 2])


def test_what_the_gate_asks(make: Make, tmp_path: Path) -> None:
    """Numbers and tokens of items as JSON has them, and a bundle that is held against its goldens."""
    from dataclasses import replace

    from edgekit.bundle import manifest
    from edgekit.checks.goldens import write_arrays
    from edgekit.core import Goldens

    model = make()
    items = [tuple(map(tuple, series(n, n).tolist())) for n in (3, 40)]
    found, tokens = model.outputs(items), model.encode(items)
    assert [array.dtype for array in tokens] == [np.int64] * 2
    for array, item in zip(found, items, strict=True):
        np.testing.assert_allclose(array, numbers(np.array(item)), atol=1e-5)
    folder, name = model.bundle.folder, model.variant.name
    write_arrays(folder / "goldens.npz", {"encoded": tokens, "reference": found, name: found})
    goldens = Goldens(tuple(items), "goldens.npz", {name: 1e-5}, {name: 1e-5})
    manifest.write(replace(model.bundle, variants=(model.variant,), goldens=goldens), folder, {})
    (check,) = verify(folder, targets=["cpu"])
    assert check.ok
    write_arrays(folder / "goldens.npz", {"encoded": [one + 1 for one in tokens], "reference": found, name: found})
    manifest.write(replace(model.bundle, variants=(model.variant,), goldens=goldens), folder, {})
    assert not verify(folder, targets=["cpu"])[0].ok


# asyncio


async def samples(rows: Any) -> AsyncIterator[Any]:
    for row in rows:
        await asyncio.sleep(0)
        yield row


def test_asyncio(make: Make) -> None:
    model, rows = make(rate=10), series(6)

    async def all_of_it(source: Any, **options: Any) -> list[Any]:
        return [result async for result in model.astream(source, **options)]

    np.testing.assert_allclose(asyncio.run(all_of_it(samples(rows))), valued(rows), atol=NEAR)
    found = asyncio.run(all_of_it(samples(rows), rate=5))
    np.testing.assert_allclose(found, list(model.stream(rows, rate=5)), atol=NEAR)
    with pytest.raises(InputError, match="takes an async iterator"):
        asyncio.run(all_of_it(rows))


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_stream_is_read_no_further(make: Make, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is cancelled while the engine is at work, which nobody can interrupt."""
    model, runs, read = make(), list[int](), list[int]()
    began, may_end, run = threading.Event(), threading.Event(), model.session_of().run

    def slow(feeds: Any, state: Any = None) -> Any:
        runs.append(1)
        began.set()
        assert may_end.wait(300)
        return run(feeds, state)

    monkeypatch.setattr(model.session_of(), "run", slow)

    async def source() -> AsyncIterator[Any]:
        for row in series(20):
            read.append(1)
            yield row

    async def all_of_it() -> None:
        async for _ in model.astream(source()):
            pass

    async def cancelled() -> None:
        task = asyncio.create_task(all_of_it())
        await asyncio.to_thread(began.wait, 30)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert (len(runs), len(read)) == (1, 1)


def test_a_step_that_fails_is_told_to_who_waits_and_to_nobody_who_has_gone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    began, may_end = threading.Event(), threading.Event()

    def broken(feeds: Any, state: Any = None) -> Any:
        began.set()
        assert may_end.wait(300)
        raise InputError("broken")

    monkeypatch.setattr(model.session_of(), "run", broken)
    unheard: list[Any] = []

    async def first() -> Any:
        return await anext(model.astream(samples(series(1))))  # type: ignore[arg-type]

    async def both() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        task = asyncio.create_task(first())
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        await asyncio.sleep(0.01)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(InputError, match="broken"):
            await first()

    asyncio.run(both())
    assert unheard == []


def test_a_sample_by_the_names_of_its_features(make: Make) -> None:
    model, rows = make(), series(4, 4)
    wanted = list(model.stream(rows))
    named = [{"load": row[1], "speed": row[0]} for row in rows]
    np.testing.assert_array_equal(list(model.stream(named)), wanted)
    np.testing.assert_array_equal(model.step({"load": None, "speed": 1.0}), make().step([1.0, np.nan]))
    with model.streams() as many:
        key = many.add()
        np.testing.assert_array_equal(many.step({key: named[0]})[key], wanted[0])
    for sample, why in (({"load": 1}, "the sample has load"), ({}, "nothing"), ({**named[0], "x": 1}, "x")):
        with pytest.raises(InputError, match=why) as caught:
            model.step(sample)
        assert "speed, load" in caught.value.hint
    with pytest.raises(InputError, match="the sample holds text, not numbers"):
        model.step({"load": "fast", "speed": 1})


def test_a_state_as_bytes(make: Make, tmp_path: Path) -> None:
    """For a store of the caller's own; a file has the same bytes."""
    model, rows = make(), series(6, 6)
    with model.session() as one, model.session() as two, model.streams() as many:
        one.feed(rows[:3])
        kept = one.save()
        assert one.save(tmp_path / "state") == kept == (tmp_path / "state").read_bytes()
        two.load(kept)
        key = many.load(many.save(many.load(kept)))
        wanted = one.step(rows[3])
        np.testing.assert_array_equal(two.step(rows[3]), wanted)
        np.testing.assert_array_equal(many.step({key: rows[3]})[key], wanted)
        with pytest.raises(StateError, match="3 bytes is not a saved stream"):
            two.load(b"not")
