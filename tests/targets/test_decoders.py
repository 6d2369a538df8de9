"""Decoders on every target, by name: whatever is done to a state, the logits are those of the text computed anew.

What one engine alone does (how it keeps a cache, what it fuses, what it compiles) is in that target's own file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened_decoder import (
    SHAPES,
    Opened,
    compiled_form,
    drawn,
    follow,
    interrupt,
    open_both,
    opened,
    padded,
    tiny,
    walk,
)
from tiny_decoder import HEAD, TABLE, VOCABULARY, Shape

from edgekit import registry
from edgekit.errors import ClosedError, ForkedSessionError, InputError, SessionBusyError, StateError, UnsupportedError

__all__ = ["opened", "tiny"]
TARGETS = registry.names("targets")
BEYOND = r"no such (token or )?position"
CACHES = [f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(request.param)
    found = registry.find("targets", name).probe()
    if not found.available:
        pytest.skip(f"{name}: {found.why}")
    if name not in ("cpu", "openvino"):  # these may not refuse
        try:
            compiled_form(name, tmp_path_factory.mktemp("compiled"), Shape())
        except UnsupportedError as error:
            pytest.skip(f"{name}: {error}")
    return name


# What is computed


@pytest.mark.parametrize("name", SHAPES)
def test_every_wiring_is_right_in_prompts_chunks_and_steps(name: str, opened: Callable[[str], Opened]) -> None:
    tiny, draw = opened(name), np.random.default_rng(1)
    state = tiny.session.start(3, 8)
    texts: list[list[int]] = [[], [], []]
    for counts in ((5, 2, 9), (1, 1, 1), (4, 1, 6), (1, 1, 1), (3, 3, 3), (1, 1, 1)):
        state = follow(tiny, state, texts, drawn(draw, counts))


@pytest.mark.parametrize("name", ["plain", "everything", "computed angles"])
@pytest.mark.parametrize("seed", range(4))
def test_any_walk_over_states_equals_the_text_computed_anew(
    name: str, seed: int, opened: Callable[[str], Opened]
) -> None:
    walk(opened(name), seed)


@pytest.mark.parametrize("chunk", [1, 7, 32, 100])
def test_a_text_in_chunks_is_the_text_at_once(tiny: Opened, chunk: int) -> None:
    (text,) = drawn(np.random.default_rng(2), [100])
    state, found = tiny.session.start(1, len(text)), []
    for first in range(0, len(text), chunk):
        part = text[first : first + chunk]
        outputs, state = tiny.session.run(padded([part]) | {"logit_positions": np.arange(len(part))[None]}, state)
        found.append(outputs["logits"][0].copy())
    np.testing.assert_allclose(np.concatenate(found), tiny.whole(text), atol=tiny.close)


def test_many_prompts_at_once(tiny: Opened) -> None:
    """More tokens than an engine may want to compute together."""
    texts: list[list[int]] = [[] for _ in range(12)]
    more = drawn(np.random.default_rng(5), range(40, 52))
    follow(tiny, tiny.session.start(12, 64), texts, more)


def test_logits_of_any_positions_and_of_none(tiny: Opened) -> None:
    rows = [[1, 2, 3, 4, 5], [6, 7, 8]]
    feeds = {**padded(rows), "logit_positions": np.array([[0, 4], [2, 1]])}
    logits, state = tiny.session.run(feeds)
    for found, text, places in zip(logits["logits"], rows, feeds["logit_positions"]):
        np.testing.assert_allclose(found, tiny.whole(text)[places], atol=tiny.close)
    outputs, state = tiny.session.run(padded([[1], [2]]) | {"logit_positions": np.zeros((2, 0), np.int64)}, state)
    assert outputs["logits"].shape == (2, 0, VOCABULARY)
    follow(tiny, state, [[*rows[0], 1], [*rows[1], 2]], [[3], [4]])


def test_padding_takes_no_row_further_than_its_text(target: str, tmp_path: Path) -> None:
    """Behind the shorter row are places at positions where the longer one turns by other angles."""
    tiny = open_both(target, tmp_path, Shape(stretched=20))
    follow(tiny, tiny.session.start(2, 40), [[], []], [list(range(30)), [1, 2, 3]])
    tiny.session.close()


# What a state is


def test_a_state_grows_beyond_what_it_was_started_for(tiny: Opened) -> None:
    texts: list[list[int]] = [[], []]
    state = follow(tiny, tiny.session.start(2, 32), texts, drawn(np.random.default_rng(1), (32, 7)))
    before = tiny.session.nbytes(state)
    state = follow(tiny, state, texts, [[1], [2]])
    state = follow(tiny, state, texts, drawn(np.random.default_rng(2), (60, 60)))
    assert tiny.session.nbytes(state) > before >= 2 * 32 * len(CACHES) * 2 * HEAD * 4  # heads, dimensions, float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "windows"])
def test_an_interrupt_anywhere_in_a_step(name: str, opened: Callable[[str], Opened]) -> None:
    interrupt(opened(name))


def test_a_fork_and_what_it_came_from_do_not_know_each_other(tiny: Opened) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[1, 2, 3]])
    fork = tiny.session.fork(state)
    follow(tiny, state, [list(texts[0])], [[4, 5, 6]])
    follow(tiny, fork, [list(texts[0])], [[9, 9]])


def test_a_state_whose_rows_were_taken_is_used_up(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2, 3], [4, 5]]))[1]
    taken = tiny.session.rows(state, [1])
    uses: list[Callable[[], Any]] = [
        lambda: tiny.session.run(padded([[1], [2]]), state),
        lambda: tiny.session.fork(state),
        lambda: tiny.session.rows(state, [0]),
        lambda: tiny.session.trim(state, [1, 1]),
        lambda: tiny.session.save(state),
    ]
    for use in uses:
        with pytest.raises(StateError, match="used up"):
            use()
    follow(tiny, taken, [[4, 5]], [[6]])


def test_what_is_saved_holds_nothing_but_the_texts(tiny: Opened) -> None:
    state = tiny.session.run(padded([list(range(9)), [1, 2]]))[1]
    saved = tiny.session.save(tiny.session.trim(state, [4, 1]))
    assert saved.keys() == {"lengths", *CACHES}
    assert saved["lengths"].tolist() == [4, 1]
    for name in CACHES:
        assert saved[name].shape == (2, 2, 4, HEAD)
        assert saved[name].any()
        assert not saved[name][1, :, 1:].any()
    kept = {name: array.copy() for name, array in saved.items()}
    tiny.session.run(padded([[1], [2]]), state)
    for name, array in saved.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize("name", ["plain", "windows", "part turns", "computed angles"])
def test_what_one_target_saved_goes_on_in_another(name: str, target: str, opened: Any, tmp_path: Path) -> None:
    tiny, rows = opened(name), [list(range(9)), [1, 2]]
    others = [other for other in TARGETS if other != target and registry.find("targets", other).probe().available]
    for other in others:
        (tmp_path / other).mkdir()
        theirs = open_both(other, tmp_path / other, SHAPES[name])
        saved = theirs.session.save(theirs.session.run(padded(rows))[1])
        theirs.session.close()
        follow(tiny, tiny.session.load(saved), [list(row) for row in rows], [[3, 4], [5]])
    if not others:
        pytest.skip("no other target is on this machine")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("lengths", None),
        ("lengths", lambda array: array.astype(np.int32)),
        ("lengths", lambda array: array[:, None]),
        ("lengths", lambda array: array[:0]),
        ("lengths", lambda array: array - 9),
        ("lengths", lambda array: array + 1),
        (CACHES[0], None),
        (CACHES[0], lambda array: array.astype(np.float16)),
        (CACHES[3], lambda array: array[:, :1]),
        (CACHES[3], lambda array: array[:, :, :1]),
        ("past_key_values.2.value", lambda array: array),
    ],
)
def test_a_saved_state_that_does_not_fit_is_refused(tiny: Opened, name: str, spoil: Any) -> None:
    saved = tiny.session.save(tiny.session.run(padded([[1, 2, 3], [4]]))[1])
    array = saved.pop(name, saved[CACHES[0]] if name != "lengths" else None)
    if spoil is not None:
        saved[name] = spoil(array)
    with pytest.raises(StateError, match="not a saved state"):
        tiny.session.load(saved)


# What is refused, in the same words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "'input_ids' is missing"),
        ({"input_ids": np.array([[1, 2]], np.int32)}, "'input_ids' is int32"),
        ({"input_ids": np.array([1, 2])}, r"'input_ids' is int64 \[2\]"),
        ({"input_ids": np.zeros((1, 0), np.int64)}, "counts is"),
        ({"counts": None}, "'counts' is missing"),
        ({"counts": np.array([0])}, r"counts is \[0\]"),
        ({"counts": np.array([3])}, r"counts is \[3\]"),
        ({"counts": np.array([1, 1])}, r"counts is \[1, 1\]"),
        ({"logit_positions": np.array([[2]])}, "goes beyond"),
        ({"logit_positions": np.array([[-1]])}, "goes beyond"),
        ({"logit_positions": np.array([[0], [0]])}, "goes beyond"),
        ({"logit_positions": np.array([0])}, "'logit_positions' is int64"),
        ({"position_ids": np.array([[0, 1]])}, "no input 'position_ids'"),
        ({"input_ids": np.array([[1, VOCABULARY]])}, "no such token"),
        ({"input_ids": np.array([[1] * TABLE]), "counts": np.array([TABLE])}, BEYOND),
        ({"input_ids": np.array([[1, 2], [3, 4]]), "counts": np.array([2, 2])}, "has 2 rows, and the state holds 1"),
    ],
)
def test_feeds_that_do_not_fit_leave_the_state_as_it_was(tiny: Opened, change: Any, message: str) -> None:
    texts: list[list[int]] = [[]]
    state = follow(tiny, tiny.session.start(1, 20), texts, [[5, 6, 7]])
    feeds = {name: array for name, array in (padded([[1, 2]]) | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        tiny.session.run(feeds, state)
    follow(tiny, state, texts, [[8]])


def test_a_token_below_zero_is_refused(tiny: Opened) -> None:
    state = tiny.session.start(1, 20)
    with pytest.raises(InputError, match="no such token"):
        tiny.session.run(padded([[1, -1]]), state)
    follow(tiny, state, [[]], [[8]])


@pytest.mark.parametrize("name", ["plain", "learned positions", "computed angles"])
def test_a_text_beyond_the_positions_is_refused(name: str, opened: Callable[[str], Opened]) -> None:
    tiny = opened(name)
    state = tiny.session.run(padded([[1] * TABLE]))[1]
    with pytest.raises(InputError, match=BEYOND):
        tiny.session.run(padded([[1]]), state)
    assert state.lengths.tolist() == [TABLE]


@pytest.mark.parametrize(
    "use",
    [
        lambda session, state: session.trim(state, [4]),
        lambda session, state: session.trim(state, [-1]),
        lambda session, state: session.trim(state, [1, 1]),
        lambda session, state: session.rows(state, []),
        lambda session, state: session.rows(state, [1]),
        lambda session, state: session.rows(state, [-1]),
        lambda session, state: session.start(0, 4),
        lambda session, state: session.start(1, -1),
        lambda session, state: session.run(padded([[1]]), {"lengths": state.lengths}),
    ],
)
def test_what_a_state_cannot_do_leaves_it_as_it_was(tiny: Opened, use: Any) -> None:
    state = tiny.session.run(padded([[1, 2, 3]]))[1]
    with pytest.raises(StateError):
        use(tiny.session, state)
    follow(tiny, state, [[1, 2, 3]], [[4]])


def test_a_state_of_another_session_is_refused(opened: Callable[[str], Opened]) -> None:
    state = opened("everything").session.start(1, 4)
    session = opened("plain").session
    uses: list[Callable[[], Any]] = [
        lambda: session.run(padded([[1]]), state),
        lambda: session.fork(state),
        lambda: session.rows(state, [0]),
        lambda: session.trim(state, [0]),
        lambda: session.save(state),
    ]
    for use in uses:
        with pytest.raises(StateError, match="not of this session"):
            use()


# Threads and processes


def test_threads_share_a_session_with_states_of_their_own(tiny: Opened) -> None:
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        draw, texts = np.random.default_rng(seed), list[list[int]]([[]])
        try:
            state = tiny.session.start(1, 4)
            for count in (7, 1, 1, 5, 1, 1, 1):
                state = follow(tiny, state, texts, drawn(draw, [count]))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_two_threads_at_one_state_are_told(tiny: Opened) -> None:
    state = tiny.session.run(padded([[1, 2]]))[1]
    uses: list[Callable[[], Any]] = [
        lambda: tiny.session.run(padded([[1]]), state),
        lambda: tiny.session.fork(state),
        lambda: tiny.session.rows(state, [0]),
        lambda: tiny.session.trim(state, [1]),
        lambda: tiny.session.save(state),
    ]
    with state.busy:
        for use in uses:
            with pytest.raises(SessionBusyError):
                use()
    follow(tiny, state, [[1, 2]], [[3]])


def test_closed_and_forked(target: str, tmp_path: Path) -> None:
    session = open_both(target, tmp_path, Shape()).session
    state = session.run(padded([[1, 2]]))[1]
    saved = session.save(state)
    child = os.fork()
    if child == 0:
        try:
            session.run(padded([[1]]), state)
        except ForkedSessionError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    session.close()
    session.close()
    uses: list[Callable[[], Any]] = [
        lambda: session.run(padded([[1]]), state),
        lambda: session.start(1, 1),
        lambda: session.load(saved),
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
