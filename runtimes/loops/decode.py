"""The decoder loop: prompts in, then one token per row and step; states stay in the session.

Knows nothing of text: who judges when a row ends is the caller's, as is how a token is chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..sampling import Choice

if TYPE_CHECKING:
    from edgekit.core import Array, Graph
    from edgekit.session import DecoderSession, Session

TOGETHER = 1024  # tokens of prompts that are read in one run


class Row(Protocol):
    """What the loop asks about one prompt."""

    ids: Sequence[int]  # of the prompt, or of what is new since the state was filled
    most: int  # tokens that may be chosen for it

    def choose(self, logits: Array) -> Choice:
        """The next token for logits (vocabulary,)."""

    def ends(self, choice: Choice) -> bool:
        """Whether this token is the row's last. A row that has ended leaves the batch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run: what was chosen, by the rows' numbers, and the state as it was before these tokens are in it."""

    choices: dict[int, Choice]
    state: Any


def decode(
    session: DecoderSession, rows: Sequence[Row], state: Any = None, stopped: Event | None = None
) -> Generator[Step, None, None]:
    """A step for each run, until every row has ended. Closing the generator stops before the next run, and so does
    `stopped`, which another thread may set while a long prompt is read.

    `state` holds what came before, a row each; it is used up. None: nothing came before.
    Raises what the session and the rows raise: InputError, ResourceError, ClosedError.
    """
    alive = list(range(len(rows)))
    longest = max(len(row.ids) for row in rows)
    if state is None:  # the last token that is chosen is never computed
        state = session.start(len(rows), max(len(row.ids) + row.most - 1 for row in rows))
    # Prompts end together, each in as many chunks as the longest needs; one that is too short for that is answered
    # while the others are read. So no run is wider than a chunk, whatever the lengths.
    chunks = -(-longest // session.chunk_tokens)
    waiting = [deque(np.array_split(np.asarray(row.ids, np.int64), min(chunks, len(row.ids)))) for row in rows]
    while alive and not (stopped and stopped.is_set()):
        feeds = padded([waiting[number].popleft() for number in alive])
        ready = {number: place for place, number in enumerate(alive) if not waiting[number]}
        if not ready:
            feeds["logit_positions"] = np.empty((len(alive), 0), np.int64)
        outputs, state = session.run(feeds, state)
        if not ready:
            continue
        chosen = {number: rows[number].choose(outputs["logits"][place, -1]) for number, place in ready.items()}
        yield Step(chosen, state)
        ended = {number for number, choice in chosen.items() if rows[number].ends(choice)}
        for number in ready.keys() - ended:
            waiting[number].append(np.array([chosen[number].id], np.int64))
        kept = [place for place, number in enumerate(alive) if number not in ended]
        if 0 < len(kept) < len(alive):
            state = session.rows(state, kept)
        alive = [alive[place] for place in kept]


def padded(rows: Sequence[Array]) -> dict[str, Array]:
    """Ids of unequal length as a session takes them: padded on the right, with how many of each are real."""
    counts = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), counts.max()), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {"input_ids": ids, "counts": counts}


def last_logits(
    session: DecoderSession,
    prompts: Sequence[Array],
    positions: Callable[[int], Sequence[int]],
    keep: Callable[[Array], Array],
) -> list[Array]:
    """For each prompt alone `keep` of the logits behind its last tokens, fed as `decode` feeds them.

    `positions`: the last ones of a prompt of so many tokens. All before these is read in chunks, without logits.
    """
    kept = []
    for ids in prompts:
        steps = len(positions(len(ids)))
        state, logits = session.start(1, len(ids)), []
        if before := len(ids) - steps:
            for chunk in np.array_split(ids[:before], -(-before // session.chunk_tokens)):
                _, state = session.run(padded([chunk]) | {"logit_positions": np.empty((1, 0), np.int64)}, state)
        for token in ids[before:]:
            outputs, state = session.run(padded([token[None]]), state)
            logits.append(outputs["logits"][0, 0].copy())
        kept.append(keep(np.stack(logits)))
    return kept


class Forced:
    """A prompt whose last tokens are "chosen" one after the other, whatever the logits say, which it keeps."""

    def __init__(self, ids: Array, steps: int) -> None:
        self.ids: Sequence[int] = ids[: len(ids) - steps + 1].tolist()
        self.most = steps
        self.logits: list[Array] = []
        self._next = [*ids[len(ids) - steps + 1 :].tolist(), 0]

    def choose(self, logits: Array) -> Choice:
        self.logits.append(logits.copy())
        return Choice(self._next[len(self.logits) - 1])

    def ends(self, choice: Choice) -> bool:
        return len(self.logits) == self.most


def batch_logits(
    session: DecoderSession,
    prompts: Sequence[Array],
    positions: Callable[[int], Sequence[int]],
    keep: Callable[[Array], Array],
) -> list[Array]:
    """What `last_logits` gives, of all prompts in one batch."""
    rows = [Forced(ids, len(positions(len(ids)))) for ids in prompts]
    for _ in decode(session, rows):
        pass
    return [keep(np.stack(row.logits)) for row in rows]


def prompt_logits(
    session: Session,
    graph: Graph,
    prompts: Sequence[Array],
    positions: Callable[[int], Sequence[int]],
    keep: Callable[[Array], Array],
) -> list[Array]:
    """As `last_logits`, from a decoder's portable graph without its states: whole prompts, several in a run."""
    kept = []
    for rows in together(prompts):
        asked = [positions(len(ids)) for ids in rows]
        logits = session.run(whole_prompts(graph, rows, asked))[0]["logits"]
        kept += [keep(row[: len(places)]) for row, places in zip(logits, asked, strict=True)]
    return kept


def together(prompts: Sequence[Array]) -> Iterator[Sequence[Array]]:
    """The prompts in order, as many at a time as make no more than TOGETHER tokens with what pads them."""
    rows: list[Array] = []
    for ids in prompts:
        if rows and (len(rows) + 1) * max(map(len, [*rows, ids])) > TOGETHER:
            yield rows
            rows = []
        rows.append(ids)
    if rows:
        yield rows


def whole_prompts(graph: Graph, prompts: Sequence[Any], positions: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Prompts from an empty past, as the portable graph of a decoder takes them.

    Rows are padded on the right, ids and positions with zeros.
    """
    counts = np.array([len(ids) for ids in prompts], np.int64)
    places = np.arange(counts.max())
    known = {
        "input_ids": _rows(prompts),
        "counts": counts,
        "position_ids": np.minimum(places, counts[:, None] - 1),
        "attention_mask": (places < counts[:, None]).astype(np.int64),
        "logit_positions": _rows(positions),
    }
    feeds, sizes = {}, {"batch": len(prompts), "past": 0}
    for port in graph.inputs:
        shape = [axis if isinstance(axis, int) else sizes.get(axis, 0) for axis in port.shape]
        feeds[port.name] = known[port.name] if port.name in known else np.zeros(shape, port.dtype)
    return feeds


def _rows(lists: Sequence[Sequence[int]]) -> Array:
    """int64 (lists, the longest), padded with zeros."""
    rows = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for row, numbers in zip(rows, lists, strict=True):
        row[: len(numbers)] = numbers
    return rows
