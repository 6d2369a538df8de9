"""Recurrent models on every target, by name: whatever is done to a state, the results are those of the series anew."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupting import interrupted_at
from property_tests import examples
from tiny_recurrent import FEATURES, HIDDEN, LAYERS, RESULTS, reference, write

from edgekit import registry
from edgekit.core import Recipe
from edgekit.errors import ClosedError, ForkedSessionError, InputError, SessionBusyError, StateError, UnsupportedError

TARGETS = registry.names("targets")
CLOSE = 1e-6


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Any:
    found = registry.find("targets", request.param)
    if not (state := found.probe()).available:
        pytest.skip(f"{request.param}: {state.why}")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recurrent")


@pytest.fixture(scope="module")
def session(target: Any, folder: Path) -> Iterator[Any]:
    made = target.open(folder, write(folder), Recipe(), threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(folder: Path, session: Any) -> Any:
    return reference(folder, write(folder))


def drawn(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (*shape, FEATURES)).astype(np.float32)


def ran(session: Any, x: Any, state: Any = None) -> tuple[Any, Any]:
    outputs, state = session.run({"x": x}, state)
    return outputs["y"].copy(), state


@pytest.mark.parametrize("chunk", [1, 3, 7, 40])
def test_steps_and_chunks_are_the_series_at_once(session: Any, whole: Any, chunk: int) -> None:
    series, state, found = drawn(1, 2, 40), session.start(2), []
    for first in range(0, 40, chunk):
        y, state = ran(session, series[:, first : first + chunk], state)
        found.append(y)
    for row, one in zip(np.concatenate(found, 1), series):
        np.testing.assert_allclose(row, whole(one), atol=CLOSE)


@examples(40)
@given(data=st.data())
def test_any_walk_over_states_equals_the_series_anew(session: Any, whole: Any, data: Any) -> None:
    """Steps, chunks, forks, rows picked and joined, saved and loaded, in any order."""
    held, said = [session.start(1)], [[np.zeros((0, FEATURES), np.float32)]]
    for turn in range(data.draw(st.integers(2, 8))):
        place = data.draw(st.integers(0, len(held) - 1))
        state, texts = held[place], said[place]
        match data.draw(st.sampled_from(["run", "run", "fork", "rows", "join", "save"])):
            case "run":
                x = drawn(turn + 1, len(texts), data.draw(st.integers(1, 5)))
                y, held[place] = ran(session, x, state)
                said[place] = [np.concatenate(pair) for pair in zip(texts, x)]
                for row, series in zip(y, said[place]):
                    np.testing.assert_allclose(row, whole(series)[-x.shape[1] :], atol=CLOSE)
            case "fork":
                rows = data.draw(st.none() | st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=3))
                held.append(session.fork(state, rows))
                said.append(list(texts) if rows is None else [texts[row] for row in rows])
            case "rows":
                rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=3))
                held[place], said[place] = session.rows(state, rows), [texts[row] for row in rows]
            case "join":
                held.append(session.join(held))
                said.append([text for of in said for text in of])
            case "save":
                held[place] = session.load(session.save(state))
        assert held[place].batch == len(said[place])


def test_a_state_goes_on_in_another_target(target: Any, session: Any, whole: Any, folder: Path) -> None:
    series = drawn(3, 2, 20)
    others = [registry.find("targets", name) for name in TARGETS if registry.find("targets", name) is not target]
    for other in (one for one in others if one.probe().available):
        theirs = other.open(folder, write(folder), Recipe(), threads=1)
        saved = theirs.save(ran(theirs, series[:, :12])[1])
        theirs.close()
        y, _ = ran(session, series[:, 12:], session.load(saved))
        for row, one in zip(y, series):
            np.testing.assert_allclose(row, whole(one)[12:], atol=CLOSE)


def test_rows_of_different_length(tmp_path: Path) -> None:
    """On ONNX Runtime: OpenVINO does not heed the LSTM's own lengths, so exporters do not use them."""
    noun = write(tmp_path, counts=True)
    session = registry.find("targets", "cpu").open(tmp_path, noun, Recipe(), threads=1)
    whole = reference(tmp_path, noun)
    series, counts = drawn(4, 3, 9), np.array([9, 1, 4])
    outputs, state = session.run({"x": series, "counts": counts})
    for row, one, count in zip(outputs["y"].copy(), series, counts):
        np.testing.assert_allclose(row[:count], whole(one[:count]), atol=CLOSE)
    more = drawn(5, 3, 1)
    outputs, _ = session.run({"x": more, "counts": np.ones(3, np.int64)}, state)
    for row, one, count, last in zip(outputs["y"], series, counts, more):
        np.testing.assert_allclose(row[0], whole(np.concatenate([one[:count], last]))[-1], atol=CLOSE)
    with pytest.raises(InputError, match="a row of counts is 0"):
        session.run({"x": more, "counts": np.array([1, 0, 1])}, state)
    with pytest.raises(InputError, match="2 of 'batch', and another input 3"):
        session.run({"x": series, "counts": np.ones(2, np.int64)}, state)
    session.close()


def test_results_are_written_over_and_states_are_not(session: Any) -> None:
    first, state = session.run({"x": drawn(6, 1, 1)})
    kept, copy = first["y"].copy(), session.fork(state)
    second, _ = session.run({"x": drawn(7, 1, 1)}, state)
    assert second["y"] is first["y"]
    assert not np.array_equal(second["y"], kept)
    again, _ = session.run({"x": drawn(7, 1, 1)}, copy)
    np.testing.assert_array_equal(again["y"], second["y"])
    assert session.nbytes(state) == 2 * LAYERS * 2 * HIDDEN * 4  # h and c, each twice


def test_an_interrupt_anywhere_in_a_step(session: Any, whole: Any) -> None:
    """The state is what it was, or what the step makes of it, whose result nobody heard."""
    series = drawn(8, 1, 6)
    for number in itertools.count():
        _, state = ran(session, series[:, :4])
        if not interrupted_at(number, "edgekit.targets.", partial(ran, session, series[:, 4:5], state)):
            break
        found = ran(session, series[:, 5:], state)[0][0, 0]
        heard = (series[0], np.delete(series[0], 4, 0))
        assert any(np.allclose(found, whole(text)[-1], atol=CLOSE) for text in heard)
    assert number > 8


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ({}, InputError, "'x' is missing"),
        ({"x": np.zeros((1, 1, FEATURES))}, InputError, "'x' is float64"),
        ({"x": np.zeros((1, 1, FEATURES + 1), np.float32)}, InputError, r"'x' is float32 \[1, 1, 4\]"),
        ({"x": np.zeros((1, FEATURES), np.float32)}, InputError, "'x' is float32"),
        ({"x": np.zeros((1, 1, FEATURES), np.float32), "h.0": np.zeros(1)}, InputError, "no input 'h.0'"),
        ({"x": np.zeros((2, 1, FEATURES), np.float32)}, StateError, "2 rows for a state of 1"),
    ],
)
def test_feeds_that_do_not_fit_leave_the_state_as_it_was(
    session: Any, whole: Any, feeds: Any, error: type[Exception], message: str
) -> None:
    series = drawn(10, 1, 4)
    _, state = ran(session, series[:, :3])
    with pytest.raises(error, match=message):
        session.run(feeds, state)
    np.testing.assert_allclose(ran(session, series[:, 3:], state)[0][0], whole(series[0])[3:], atol=CLOSE)


def test_what_a_state_cannot_do(session: Any, target: Any, folder: Path) -> None:
    _, state = ran(session, drawn(11, 2, 1))
    saved = session.save(state)
    other = target.open(folder, write(folder), Recipe(), threads=1)
    refused = [
        lambda: session.start(0),
        lambda: session.rows(state, [2]),
        lambda: session.rows(state, []),
        lambda: session.join([]),
        lambda: other.fork(state),
        lambda: session.load({name: array for name, array in saved.items() if name != "c.1"}),
        lambda: session.load(saved | {"c.2": saved["c.1"]}),
        lambda: session.load(saved | {"c.1": saved["c.1"][:, :1]}),
        lambda: session.load(saved | {"c.1": saved["c.1"].astype(np.float64)}),
    ]
    for use in refused:
        with pytest.raises(StateError):
            use()
    taken = session.rows(session.fork(state), [0])
    spent = session.fork(state)
    session.rows(spent, [1])
    for use in (
        lambda: session.run({"x": drawn(1, 2, 1)}, spent),
        lambda: session.fork(spent),
        lambda: session.join([taken, spent]),
    ):
        with pytest.raises(StateError, match="used up"):
            use()
    with state.busy:
        for busy in (lambda: session.run({"x": drawn(1, 2, 1)}, state), lambda: session.fork(state)):
            with pytest.raises(SessionBusyError):
                busy()
    other.close()


def test_a_model_made_for_one_row(target: Any, tmp_path: Path) -> None:
    session = target.open(tmp_path, write(tmp_path, rows=1), Recipe(), threads=1)
    _, state = ran(session, drawn(12, 1, 4))
    with pytest.raises(StateError, match="made for one"):
        session.join([state, session.fork(state)])
    session.close()


def test_a_result_whose_length_nobody_knows(target: Any, tmp_path: Path) -> None:
    noun = write(tmp_path)
    strange = replace(noun.outputs[0], shape=("batch", "steps", RESULTS))
    with pytest.raises(UnsupportedError, match="'steps' of y"):
        target.open(tmp_path, replace(noun, outputs=(strange, *noun.outputs[1:])), Recipe(), threads=1)


def test_closed_and_forked(target: Any, folder: Path) -> None:
    session = target.open(folder, write(folder), Recipe(), threads=1)
    _, state = ran(session, drawn(13, 1, 1))
    saved = session.save(state)
    child = os.fork()
    if child == 0:
        try:
            session.run({"x": drawn(1, 1, 1)}, state)
        except ForkedSessionError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    session.close()
    session.close()
    uses = [lambda: ran(session, drawn(1, 1, 1), state), lambda: session.start(1), lambda: session.load(saved)]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
