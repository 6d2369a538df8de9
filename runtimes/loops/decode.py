"""The loop of decoders: prompts in, then a token a row and step, over states that only the session looks into.

Knows nothing of text: who judges when a row ends is the caller's, as is how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..sampling import Choice

if TYPE_CHECKING:
    from edgekit.core import Array, DecoderSession


class Row(Protocol):
    """What the loop asks about one prompt."""

    ids: Sequence[int]  # of the prompt, or of what is new since the state was filled

    def choose(self, logits: Array) -> Choice:
        """The next token for logits (vocabulary,)."""

    def ends(self, choice: Choice) -> bool:
        """Whether this token is the row's last. A row that has ended leaves the batch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run: what was chosen, by the rows' numbers, and the state as it was before these tokens are in it."""

    choices: dict[int, Choice]
    state: Any


def decode(session: DecoderSession, rows: Sequence[Row], state: Any = None) -> Generator[Step, None, None]:
    """A step for each run, until every row has ended. Closing the generator stops before the next run.

    `state` holds what came before, a row each; it is used up. None: nothing came before.
    Raises what the session and the rows raise: InputError, ResourceError, ClosedError.
    """
    alive = list(range(len(rows)))
    state = session.start(len(rows), max(len(row.ids) for row in rows)) if state is None else state
    logits, state = prefill(session, [row.ids for row in rows], state)
    while True:
        chosen = {number: rows[number].choose(logits[place]) for place, number in enumerate(alive)}
        yield Step(chosen, state)
        kept = [place for place, number in enumerate(alive) if not rows[number].ends(chosen[number])]
        if not kept:
            return
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            state = session.rows(state, kept)
        ids = np.array([[chosen[number].id] for number in alive], np.int64)
        outputs, state = session.run({"input_ids": ids, "counts": np.ones(len(alive), np.int64)}, state)
        logits = outputs["logits"][:, -1]


def prefill(session: DecoderSession, prompts: Sequence[Sequence[int]], state: Any) -> tuple[Array, Any]:
    """The prompts into the state, in chunks that end together; the logits after them (rows, vocabulary).

    A chunk is what the session likes, so that memory does not grow with the prompt; only the last has logits.
    """
    chunks = -(-max(map(len, prompts)) // session.chunk_tokens)
    chunks = max(1, min(chunks, min(map(len, prompts))))
    parts = [np.array_split(np.asarray(prompt, np.int64), chunks) for prompt in prompts]
    for number in range(chunks - 1):
        none = {"logit_positions": np.empty((len(prompts), 0), np.int64)}
        _, state = session.run(padded([row[number] for row in parts]) | none, state)
    outputs, state = session.run(padded([row[-1] for row in parts]), state)
    return outputs["logits"][:, -1], state


def padded(rows: Sequence[Array]) -> dict[str, Array]:
    """Ids of unequal length as a session takes them: padded on the right, with how many of each are real."""
    counts = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), counts.max()), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {"input_ids": ids, "counts": counts}


def gather(
    session: DecoderSession,
    ingest: Any,
    head: ModuleType,
    settings: dict[str, Any],
    encodings: Sequence[Any],
    **options: Any,
) -> list[Array]:
    """The head's numbers for each prompt by itself: what its last positions say comes next."""
    found = []
    for encoding in encodings:
        ids = np.asarray([encoding.ids], np.int64)
        asked = np.asarray([head.positions(ids.shape[1])], np.int64)
        feeds = {"input_ids": ids, "counts": np.array([ids.shape[1]], np.int64), "logit_positions": asked}
        outputs, _ = session.run(feeds, session.start(1, ids.shape[1]))
        found.append(head.numbers(outputs["logits"][0], settings, **options))
    return found
