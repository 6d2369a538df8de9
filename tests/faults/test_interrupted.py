"""Answers that do not end as they should: interrupts, faults in the middle, refusals. Whatever happens, what comes
after is what a model that was never disturbed says.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opened_writer import CONTEXT, open_writer, with_template
from property_tests import examples

from edgekit import registry
from edgekit.errors import EdgeKitError, InputError, ResourceError, SessionBusyError, StateError, UsageError
from edgekit.results import Piece
from edgekit.runtimes.conversation import Conversation, TextGenerator

HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
FIXTURES = Path(__file__).parents[1] / "fixtures"
NEW = 8
HELLO = [{"role": "user", "content": "one two"}]
MORE = [{"role": "user", "content": "three"}]


@pytest.fixture(scope="module", params=[(name, arch) for name in HERE for arch in ("llama", "lfm2")], ids="-".join)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextGenerator]:
    """A model without a chat template: a session's turns go on from one another as texts. One has nothing but caches,
    which can be cut; the other also has states of a fixed size, which cannot go back.
    """
    found = open_writer(tmp_path_factory.mktemp("writer"), *request.param)
    yield found
    found.session.close()


@pytest.fixture(scope="module")
def chatty(plain: TextGenerator, tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    """The same with a chat template."""
    return with_template(plain, tmp_path_factory.mktemp("template"))


def said(conversation: Conversation, prompt: Any, **options: Any) -> tuple[int, ...]:
    ids: tuple[int, ...] = conversation.generate(prompt, max_new_tokens=NEW, **options).ids
    return ids


def ids_of(writer: TextGenerator, text: str) -> list[int]:
    ids: list[int] = writer.ingest.encode([text], begin=False)[0].ids
    return ids


def anew(writer: TextGenerator, ids: list[int]) -> tuple[int, ...]:
    """The answer to all that was said, computed without a session."""
    found: tuple[int, ...] = writer.result(ids, {"max_new_tokens": NEW}).ids
    return found


def failing(session: Any, at: int, error: BaseException, *, after: bool) -> Callable[..., Any]:
    """The session's run, which fails at its call number `at`: before the engine has run, or after."""
    run, calls = session.run, []

    def failing_run(feeds: Any, state: Any = None) -> Any:
        calls.append(feeds)
        if len(calls) == at and not after:
            raise error
        found = run(feeds, state)
        if len(calls) == at:
            raise error
        return found

    return failing_run


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ResourceError("out of memory")], ids=["interrupt", "fault"])
def test_a_text_goes_on_after_a_run_that_failed(
    plain: TextGenerator, at: int, after: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(plain)
    heard = [*ids_of(plain, "one two three"), *said(talk, "one two three")]
    monkeypatch.setattr(plain.session, "run", failing(plain.session, at, error, after=after))
    pieces: list[Piece] = []
    with pytest.raises(type(error)):
        pieces.extend(talk.generate(" four", max_new_tokens=NEW, stream=True))
    monkeypatch.undo()
    if at > 1:  # what was chosen before the fault is part of what was said
        heard += [*ids_of(plain, " four"), *anew(plain, [*heard, *ids_of(plain, " four")])[: at - 1]]
    assert talk.tokens <= len(heard)
    assert said(talk, " five") == anew(plain, [*heard, *ids_of(plain, " five")])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_chat_goes_on_after_an_interrupt(
    chatty: TextGenerator, at: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(chatty)
    first = talk.generate(HELLO, max_new_tokens=NEW)
    monkeypatch.setattr(chatty.session, "run", failing(chatty.session, at, KeyboardInterrupt(), after=after))
    with pytest.raises(KeyboardInterrupt):
        talk.generate("something else", max_new_tokens=NEW)
    monkeypatch.undo()
    everything = [*HELLO, {"role": "assistant", "content": first.text}, *MORE]
    assert talk.messages == everything[:2]
    assert said(talk, MORE) == chatty.result(everything, {"max_new_tokens": NEW}).ids


# A template is rendered by Rust, which asks Python one question and swallows an interrupt in it: the next one is heard.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("delay", [0.001, 0.004, 0.009, 0.02, 0.05])
def test_ctrl_c_at_any_time(chatty: TextGenerator, delay: float, tmp_path: Path) -> None:
    """The signal itself, wherever it finds the process: in the engine, in the sampling, in the caller's loop."""
    talk, heard = Conversation(chatty), signal.signal(signal.SIGALRM, signal.default_int_handler)
    first = talk.generate(HELLO, max_new_tokens=NEW)

    def endless(**options: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay, 8.0)
        until = time.monotonic() + 300
        while time.monotonic() < until:
            talk.messages = talk.messages[:2]  # an interrupt may have come right behind an answer
            list(talk.generate([{"role": "user", "content": "x"}], max_new_tokens=60, stream=True, **options))

    try:
        for options in ({}, {"temperature": 1.0, "top_p": 0.9}):  # the second works longer outside of the engine
            with pytest.raises(KeyboardInterrupt):
                endless(**options)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, heard)
    talk.messages = talk.messages[:2]
    talk.save(tmp_path / "chat.state")
    loaded, everything = Conversation(chatty), [*HELLO, {"role": "assistant", "content": first.text}, *MORE]
    loaded.load(tmp_path / "chat.state")
    wanted = chatty.result(everything, {"max_new_tokens": NEW}).ids
    assert [said(each, MORE) for each in (talk.fork(), loaded, talk)] == [wanted] * 3


@pytest.mark.slow
@pytest.mark.parametrize("target", HERE)
def test_no_interrupt_breaks_the_engine(target: str, tmp_path: Path) -> None:
    """In a process of its own, which OpenVINO ended, sooner or later, when its runs were cancelled."""
    program = FIXTURES / "interrupted_chat.py"
    command = [sys.executable, "-W", "ignore", str(program), target, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_an_option_that_only_the_first_token_shows_to_be_wrong(plain: TextGenerator) -> None:
    talk = Conversation(plain)
    heard = [*ids_of(plain, "one two three"), *said(talk, "one two three")]
    with pytest.raises(UsageError, match="logit_bias names token 500"):
        said(talk, " four", logit_bias={500: 1.0})
    assert said(talk, " five") == anew(plain, [*heard, *ids_of(plain, " five")])


def test_what_a_caller_raises_comes_out_of_a_with_block(chatty: TextGenerator) -> None:
    talk = Conversation(chatty)

    def fail(turn: Iterator[Piece]) -> None:
        next(turn)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), talk:
        fail(talk.generate(HELLO, max_new_tokens=NEW, stream=True))
    assert (talk.tokens, talk.messages) == (0, [])
    assert said(talk, HELLO) == chatty.result(HELLO, {"max_new_tokens": NEW}).ids


def test_a_turn_that_is_not_over_keeps_others_out(chatty: TextGenerator) -> None:
    talk = Conversation(chatty)
    turn = talk.generate(HELLO, max_new_tokens=NEW, stream=True)
    next(turn)
    with pytest.raises(SessionBusyError):
        talk.reset()
    with pytest.raises(SessionBusyError):
        talk.generate(HELLO)
    talk.close()
    assert list(turn) == []
    assert said(talk, HELLO) == chatty.result(HELLO, {"max_new_tokens": NEW}).ids


@pytest.mark.parametrize(
    "prompt", ["", [], [{"role": "user", "content": "a"}, 5], [5, {"role": "user"}], [5.0], [-1], [320]]
)
def test_what_is_no_prompt(plain: TextGenerator, chatty: TextGenerator, prompt: Any) -> None:
    for writer in [plain] if prompt == "" else [plain, chatty]:  # in a chat an empty message is one
        talk = Conversation(writer)
        with pytest.raises(InputError):
            writer.result(prompt, {})
        with pytest.raises(InputError):
            talk.generate(prompt)
        assert (talk.messages, talk.tokens) == ([], 0)


def test_a_turn_that_does_not_fit_leaves_the_session_as_it_was(plain: TextGenerator) -> None:
    talk = Conversation(plain)
    heard = [*ids_of(plain, "one two three"), *said(talk, "one two three")]
    with pytest.raises(InputError, match=f"{CONTEXT + 1} tokens, and the context holds {CONTEXT}"):
        talk.generate([5] * (CONTEXT + 1 - len(heard)))
    last = talk.generate([5] * (CONTEXT - len(heard)), max_new_tokens=NEW)  # fills the context to the last place
    assert (last.ids, last.finish_reason) == (anew(plain, [*heard, *[5] * (CONTEXT - len(heard))]), "length")
    assert len(last.ids) == 1
    with pytest.raises(InputError, match=f"{CONTEXT + 2} tokens"):
        talk.generate([5])


def test_a_context_that_fills_up_in_a_batch_ends_that_row_only(plain: TextGenerator) -> None:
    prompts = [[7] * (CONTEXT - 2), [8] * 5, [9] * CONTEXT]
    together = list(plain.results(prompts, {"max_new_tokens": NEW}))
    assert [len(answer.ids) for answer in together] == [3, NEW, 1]
    assert [answer.ids for answer in together] == [anew(plain, prompt) for prompt in prompts]


def test_a_seed_is_the_same_answer_in_any_company(plain: TextGenerator) -> None:
    prompts: list[Any] = [[place + 3] * (place % 5 + 1) for place in range(11)]  # more than one batch
    options = {"max_new_tokens": NEW, "temperature": 1.5, "logprobs": 0}
    drawn = list(plain.results(prompts, options))
    assert len({answer.seed for answer in drawn}) == len(prompts)
    for seed in (3, 2**63 - 1):  # those that are drawn anew would sooner or later meet a choice that rounding decides
        together = list(plain.results(prompts, {**options, "seed": seed}))
        assert len({answer.seed for answer in together}) == len(prompts)
        for prompt, answer in zip(prompts, together):
            again = plain.result(prompt, {**options, "seed": answer.seed})
            assert (again.ids, again.seed) == (answer.ids, answer.seed)
    assert plain.result(prompts[0], {**options, "seed": 3}).seed == 3
    assert len({plain.result(prompts[0], {**options, "seed": seed}).ids for seed in range(8)}) > 4


def test_log_probabilities_of_rows_are_those_of_each_alone(plain: TextGenerator) -> None:
    prompts: list[Any] = [[7] * 30, [8, 9], [10, 11, 12, 13]]
    options = {"max_new_tokens": NEW, "logprobs": 4}
    for prompt, answer in zip(prompts, plain.results(prompts, options)):
        ids = [*prompt, *answer.ids]
        places = np.arange(len(prompt) - 1, len(ids) - 1)[None]
        feeds = {"input_ids": np.array([ids]), "counts": np.array([len(ids)]), "logit_positions": places}
        logits = plain.session.run(feeds)[0]["logits"][0].astype(np.float64)
        own = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for piece, wanted in zip(answer.pieces, own, strict=True):
            assert piece.logprob == pytest.approx(wanted[piece.ids[0]], abs=1e-4)
            assert [value for _, value in piece.top] == pytest.approx(np.sort(wanted)[::-1][:4].tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def saved(chatty: TextGenerator, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    talk, file = Conversation(chatty), tmp_path_factory.mktemp("saved") / "chat.state"
    said(talk, HELLO)
    talk.save(file)
    return file.read_bytes()


@examples(60)
@given(data=st.data())
def test_no_byte_of_a_saved_chat_is_trusted(saved: bytes, chatty: TextGenerator, tmp_path: Path, data: Any) -> None:
    torn = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 4))):
        torn[data.draw(st.integers(0, len(torn) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "torn").write_bytes(torn)
    try:
        talk = Conversation(chatty)
        talk.load(tmp_path / "torn")
        said(talk, MORE)
    except EdgeKitError:
        pass


def changed(saved: bytes, **told: Any) -> bytes:
    """The saved chat, which says something else of itself."""
    with np.load(io.BytesIO(saved)) as file:
        arrays = {name: file[name] for name in file.files}
    found = json.loads(arrays.pop("told").tobytes()) | told
    rows = told.pop("rows", 1)
    arrays = {name: np.repeat(array, rows, 0) for name, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez(buffer, told=np.frombuffer(json.dumps(found).encode(), np.uint8), **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "told",
    [
        {"rows": 2},
        {"held": 3},
        {"held": -1},
        {"ids": []},
        {"ids": ["a"]},
        {"ids": None},
        {"ids": [-5] * 60},
        {"ids": [320] * 60},
        {"ids": [5] * (CONTEXT + 2)},
        {"messages": 5},
        {"messages": ["hello"]},
        {"made_for": None},
    ],
    ids=str,
)
def test_a_saved_chat_that_says_what_cannot_be(saved: bytes, chatty: TextGenerator, told: Any, tmp_path: Path) -> None:
    (tmp_path / "chat.state").write_bytes(changed(saved, **told))
    talk = Conversation(chatty)
    with pytest.raises(StateError):
        talk.load(tmp_path / "chat.state")
    assert (talk.messages, talk.tokens) == ([], 0)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"5"], ids=["empty", "object", "deep", "number"])
def test_a_file_that_holds_no_chat(data: bytes, chatty: TextGenerator, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", told=np.frombuffer(data, np.uint8))
    np.save(tmp_path / "two.npy", np.frombuffer(data, np.uint8))
    (tmp_path / "three").write_bytes(data)
    for file in ("one.npz", "two.npy", "three", "no-such-file"):
        with pytest.raises(StateError, match="is not a saved chat"):
            Conversation(chatty).load(tmp_path / file)
