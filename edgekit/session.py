"""Sessions: the protocols that opened graphs implement, and the checks that all sessions share.

Protocols that targets implement and loops call. Knows no engine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import ClosedError, ForkedSessionError, InputError, SessionBusyError

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Graph


class Session(Protocol):
    """A graph, opened by an engine. Only the session looks inside a state. Threads may share it."""

    placement: str  # what really runs it: "CPUExecutionProvider", "CPU"
    length_step: int  # lengths that are multiples of it are cheaper: each new shape costs the engine time
    batch_tokens: int  # what it likes in a batch, padding counted: more is not faster, and costs memory

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """Outputs by name, and the new states. Raises InputError, ResourceError, ClosedError."""

    def close(self) -> None:
        """Free the engine's memory; twice is once."""


class StatefulSession(Session, Protocol):
    """A session whose runs go on from a state. States are opaque, belong to one session, and are for one caller each.

    Inputs that the graph holds (a `State` without `out`) are among the feeds of the first run of a state, and of no
    other; from then on they are part of it. InputError for one that is missing then, or comes again (a decoder's state
    without a token takes others). A plain graph that holds inputs has such a session as well, with `start(batch)`.

    A run that fails leaves its state as it was, or of no use (StateError).
    """

    def fork(self, state: Any, rows: Sequence[int] | None = None) -> Any:
        """An independent copy, of these rows only if any are named."""

    def rows(self, state: Any, rows: Sequence[int]) -> Any:
        """These rows, in this order, any of them more than once. The given state is used up."""

    def save(self, state: Any) -> dict[str, Array]:
        """The state as arrays that `load` takes, in this process or another, on this target or another."""

    def load(self, arrays: Mapping[str, Array]) -> Any:
        """Raises StateError for arrays that are not this graph's."""

    def nbytes(self, state: Any) -> int:
        """What the state takes."""


class StreamSession(StatefulSession, Protocol):
    """A recurrent model's session: feeds are the graph's inputs that are no states. `state.batch` streams at once."""

    def start(self, batch: int) -> Any:
        """A state of so many streams, before anything was read."""

    def join(self, states: Sequence[Any]) -> Any:
        """One state of the streams of all of these, in order."""


class DecoderSession(StatefulSession, Protocol):
    """A decoder's session; `state.lengths` int64 (batch,) are the tokens that each row holds.

    `run` takes `input_ids` int64 (batch, sequence) padded on the right, `counts` int64 (batch,): how many of each row
    are real, and optionally `logit_positions` int64 (batch, outputs), else the last real one. It gives `logits`
    float32 (batch, outputs, vocabulary), to be read before the next run, and the state that counts from then on.
    """

    chunk_tokens: int  # of a prompt, that are best computed at once

    def start(self, batch: int, capacity: int) -> Any:
        """An empty state, with room for `capacity` tokens a row before it must grow."""

    def trim(self, state: Any, lengths: Sequence[int]) -> Any:
        """Each row cut to its first so many tokens. Raises StateError if it has fewer, or cannot be cut there."""


def free(lock: threading.Lock, what: str, hint: str) -> threading.Lock:
    """The lock, for a `with`; raises SessionBusyError where another thread holds it.

    One that comes in the same instant waits: between an `acquire` and its `try` a signal could leave a lock taken for
    ever, and between a `with` and its block none is heard.
    """
    if lock.locked():
        raise SessionBusyError(what, hint=hint)
    return lock


class Life:
    """Of a session: open until closed, and only in the process that opened it (engines do not survive a fork)."""

    def __init__(self, what: str) -> None:
        self._what, self._process, self._open = what, os.getpid(), True

    def check(self) -> None:
        """Raises ClosedError or ForkedSessionError."""
        if not self._open:
            raise ClosedError(f"{self._what} is closed", hint="load the bundle again")
        if os.getpid() != self._process:
            raise ForkedSessionError(
                f"{self._what} was opened before this process was forked",
                hint="load the bundle in the child, or start children with the spawn method",
            )

    def end(self) -> bool:
        """Closed from now on; True the first time, in the process that opened it."""
        was, self._open = self._open, False
        return was and os.getpid() == self._process


def check_feeds(graph: Graph, feeds: Arrays) -> None:
    """Names, dtypes, ranks and fixed axes of `feeds` against the graph's inputs. Raises InputError naming the first."""
    for port in graph.inputs:
        array = feeds.get(port.name)
        if array is None:
            raise InputError(f"input {port.name!r} is missing", hint=f"got: {', '.join(feeds) or 'nothing'}")
        fits = len(array.shape) == len(port.shape) and all(
            isinstance(axis, str) or axis == length for axis, length in zip(port.shape, array.shape)
        )
        if array.dtype.name != port.dtype or not fits:
            wanted = f"{port.dtype} {list(port.shape)}"
            raise InputError(
                f"input {port.name!r} is {array.dtype.name} {list(array.shape)}", hint=f"expected {wanted}"
            )
    if len(feeds) > len(graph.inputs):
        unknown = sorted(set(feeds) - {port.name for port in graph.inputs})
        raise InputError(f"the graph has no input {unknown[0]!r}", hint="leave it out")


class Batch(Protocol):
    """What an ingest makes of some items: `feeds` for the graph, and `rows`, the items' positions in the call."""

    @property
    def feeds(self) -> dict[str, Array]: ...
    @property
    def rows(self) -> Sequence[int]: ...
