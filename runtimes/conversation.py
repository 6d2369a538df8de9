"""Answer prompts with a decoder: one, a batch, or the turns of a conversation.

Joins ingest, loop and head; knows no architecture and no engine.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from edgekit.errors import StateError
from edgekit.results import Piece, Result
from edgekit.session import free

from . import state_file
from .heads import tokens
from .heads.tokens import Answer
from .ingest.chat import prompt_options
from .loops.decode import decode

if TYPE_CHECKING:
    from edgekit.session import DecoderSession

    from .ingest.chat import Chat, Prompt, PromptOptions

Turn = Generator[Piece | Result, None, None]
WHAT = "chat"  # that a file holds
TOGETHER = 8  # prompts of a list that are answered in one batch


@dataclass(frozen=True)
class TextGenerator:
    """A decoder that is open: its session, its tokenizer and what the bundle says of it."""

    session: DecoderSession
    ingest: Chat
    settings: Mapping[str, Any]
    name: str  # what saved states belong to: one variant of one bundle

    def pieces(
        self, prompt: Prompt, options: Mapping[str, Any], stopped: threading.Event | None = None
    ) -> Iterator[Piece]:
        """The answer as it grows. The prompt is checked now, and computed when the first piece is asked for.

        `stopped`, once set, ends it before the next run.
        """
        reading, options = prompt_options(options)
        (encoded,) = self.ingest.encode([prompt], reading=reading)
        answer = Answer(encoded.ids, encoded.ids, self.ingest, tokens.wish(self.settings, options))

        def grow() -> Iterator[Piece]:
            with closing(decode(self.session, [answer], stopped=stopped)) as steps:
                for _ in steps:
                    yield answer.pieces[-1]

        return grow()

    def result(self, prompt: Prompt, options: Mapping[str, Any]) -> Result:
        return next(self.results([prompt], options))

    def results(self, prompts: Sequence[Prompt], options: Mapping[str, Any]) -> Iterator[Result]:
        """An answer a prompt, in order, computed several at a time."""
        reading, options = prompt_options(options)
        for first in range(0, len(prompts), TOGETHER):
            begun = time.perf_counter()
            encoded = self.ingest.encode(prompts[first : first + TOGETHER], first=first, reading=reading)
            wish = tokens.wish(self.settings, options)
            rows = [Answer(one.ids, one.ids, self.ingest, wish, first + row) for row, one in enumerate(encoded)]
            clock = Clock(begun)
            with closing(decode(self.session, rows)) as steps:
                for step in steps:
                    clock.step(step.choices)
            yield from (finished(answer, clock.of(row)) for row, answer in enumerate(rows))


class Clock:
    """When each row's tokens came, in seconds since the prompts were given."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self._came: dict[int, list[float]] = {}

    def step(self, rows: Mapping[int, Any]) -> None:
        now = time.perf_counter() - self._begun
        for row in rows:
            self._came.setdefault(row, []).append(now)

    def of(self, row: int) -> dict[str, float]:
        """`ttft`: to the first token; `tpot`: between two, where there are two; `total`."""
        came = self._came[row]
        between = {"tpot": (came[-1] - came[0]) / (len(came) - 1)} if len(came) > 1 else {}
        return {"ttft": came[0], **between, "total": came[-1]}


def finished(answer: Answer, timings: dict[str, float]) -> Result:
    usage = {"prompt_tokens": answer.prompt, "new_tokens": len(answer.chosen)}
    pieces = tuple(answer.pieces) if any(piece.logprob is not None for piece in answer.pieces) else ()
    return Result(answer.text, tuple(answer.chosen), answer.finish_reason, usage, timings, answer.seed, pieces)


class Conversation:
    """A chat that keeps its state: a turn computes what is new, not what was said before.

    `options` hold for each turn that does not give its own; a saved state has none of them. One caller at a time
    (SessionBusyError); a context manager, as it owns memory.
    """

    def __init__(self, generator: TextGenerator, options: Mapping[str, Any] | None = None) -> None:
        """Raises UsageError for an option that there is not, or with a value that makes no sense."""
        self._generator, self._options = generator, dict(options or {})
        tokens.wish(generator.settings, prompt_options(self._options)[1])
        self._busy = threading.Lock()
        self._turns: list[weakref.ref[Turn]] = []  # those that may not be over
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self._alone():
            self.messages: list[dict[str, Any]] = []
            self._ids: list[int] = []  # all that was said, on both sides
            self._held = 0  # how many of these the state holds: the last token that is chosen is never computed
            self._state: Any = None

    def close(self) -> None:
        """Forget everything; a turn that is not over ends. Raises SessionBusyError where another thread is at one."""
        for turn in (known() for known in self._turns):
            with suppress(ValueError):  # it is running, which reset() tells
                if turn is not None:
                    turn.close()
        self.reset()

    @property
    def tokens(self) -> int:
        """How many the state holds."""
        return self._held

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[False] = False, **options: Any) -> Result: ...
    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[True], **options: Any) -> Iterator[Piece]: ...
    def generate(self, prompt: Prompt, *, stream: bool = False, **options: Any) -> Result | Iterator[Piece]:
        """The answer to what is new: messages to add to the chat, a text or ids to go on from."""
        turn = self.turn(prompt, options)
        if stream:
            return (piece for piece in turn if isinstance(piece, Piece))
        *_, result = turn
        assert isinstance(result, Result)
        return result

    def fork(self) -> Conversation:
        """An independent copy, from here."""
        with self._alone():
            made = Conversation(self._generator, self._options)
            made.messages = [dict(message) for message in self.messages]
            made._ids, made._held = list(self._ids), self._held
            made._state = None if self._state is None else self._generator.session.fork(self._state)
            return made

    def save(self, path: str | Path | None = None) -> bytes:
        """The chat and its state as bytes; with `path` they are also written into that file, whole or not at all.

        Raises UsageError for a place that cannot be written to, ResourceError when the disk is full.
        """
        with self._alone():
            told = {"made_for": self._generator.name, "messages": self.messages, "ids": self._ids, "held": self._held}
            return state_file.write(
                path, told, {} if self._state is None else self._generator.session.save(self._state)
            )

    def load(self, source: str | Path | bytes) -> None:
        """Go on where a saved chat stopped, from its file or its bytes, in this process or another.

        Raises StateError for another model's.
        """
        with self._alone():
            told, arrays = state_file.read(source, WHAT, self._generator.name)
            try:
                messages = [dict(message) for message in told["messages"]]
                ids, held = [int(id) for id in told["ids"]], int(told["held"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise state_file.broken(source, WHAT, error) from error
            ingest = self._generator.ingest
            if len(ids) > ingest.context + 1 or any(not 0 <= id < ingest.vocabulary for id in ids):
                raise StateError(
                    f"{state_file.title(source)} has token ids that are not in the vocabulary", hint="save it again"
                )
            found = self._generator.session.load(arrays) if arrays else None
            if held > len(ids) or [held] != ([0] if found is None else found.lengths.tolist()):
                raise StateError(
                    f"{state_file.title(source)} does not have the number of tokens that it states",
                    hint="save it again",
                )
            self.messages, self._ids, self._held, self._state = messages, ids, held, found

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def turn(self, prompt: Prompt, options: Mapping[str, Any]) -> Turn:
        """The pieces of an answer, and after them its result.

        Closed or failing, it leaves what was said before; of a text or ids also the prompt and what was answered, if
        the first token had come.
        """
        turn = self._turn(prompt, options)
        self._turns = [*(known for known in self._turns if known() is not None), weakref.ref(turn)]
        return turn

    def _turn(self, prompt: Prompt, options: Mapping[str, Any]) -> Turn:
        with self._alone(), self._settling():
            begun = time.perf_counter()
            reading, options = prompt_options({**self._options, **options})
            chat, ids = self._asked(prompt, reading)
            self._generator.ingest.check_room(len(ids))
            wish = tokens.wish(self._generator.settings, options)
            answer = Answer(ids, self._trimmed(ids), self._generator.ingest, wish)
            clock = Clock(begun)
            with closing(decode(self._generator.session, [answer], self._state)) as steps:
                for step in steps:
                    clock.step(step.choices)
                    self._state, self._ids, self._held = step.state, ids, len(ids)
                    ids.append(step.choices[0].id)
                    yield answer.pieces[-1]
            if chat is not None:
                self.messages = [*chat, {"role": "assistant", "content": answer.text}]
            yield finished(answer, clock.of(0))

    def _asked(self, prompt: Prompt, reading: PromptOptions) -> tuple[list[dict[str, Any]] | None, list[int]]:
        """The chat with what is new in it (None: no chat), and all tokens from its start."""
        ingest = self._generator.ingest
        if isinstance(prompt, str) and ingest.template is not None and not reading.parse_special:
            prompt = [{"role": "user", "content": prompt}]
        new = [] if isinstance(prompt, str) else [dict(part) for part in prompt if isinstance(part, Mapping)]
        if new and len(new) == len(prompt):
            chat = [*self.messages, *new]
            return chat, ingest.chat(chat, reading)
        (encoded,) = ingest.encode([prompt], begin=not self._ids, reading=reading)
        return None, [*self._ids, *encoded.ids]

    def _trimmed(self, ids: Sequence[int]) -> list[int]:
        """The state cut to what it shares with `ids`; what is left to compute, a token at least."""
        held = np.asarray(self._ids[: min(self._held, len(ids) - 1)], np.int64)
        differs = np.flatnonzero(held != np.asarray(ids[: len(held)], np.int64))
        shared = int(differs[0]) if len(differs) else len(held)
        if self._state is not None and shared < self._held:
            try:
                self._state, self._held = self._generator.session.trim(self._state, [shared]), shared
            except StateError:  # a state of fixed size cannot go back: all is computed anew
                self._state, self._held, shared = None, 0, 0
        return list(ids[shared:])

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """Whatever ends a turn: the state holds what it held before the run that failed, or is computed anew.

        A run may have changed it before anybody heard of that, and an engine may have spoiled it (StateError).
        """
        try:
            yield
        except BaseException:
            before, held = self._state, self._held
            self._state, self._held = None, 0
            with suppress(StateError):
                if before is not None:
                    self._state, self._held = self._generator.session.trim(before, [held]), held
            raise

    def _alone(self) -> threading.Lock:
        return free(self._busy, "this session is answering already", hint="wait, or fork() it for another thread")
