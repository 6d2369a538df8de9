"""The loop of recurrent models: a step's inputs and the state in, results and the new state out.

Knows nothing of what goes in or comes out; the ingest cuts series into pieces, and says which fit side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays
    from edgekit.session import StreamSession

RESULTS = "y"  # the graph's output: (batch, time, n) where each step has a result, (batch, n) where the end has one
SINGLE = 16  # steps at an item's end that are taken one at a time, to prove that these go as chunks do


def stream(
    session: StreamSession, source: Iterable[Arrays], state: Any = None
) -> Generator[tuple[dict[str, Array], Any], None, None]:
    """Outputs and state after each of the feeds. These are taken from `source` when a result is asked for, never
    before; outputs are to be read before the next is.

    `state`: what came before; None: nothing did. Raises what the session raises: InputError, StateError,
    SessionBusyError, ResourceError, ClosedError.
    """
    for feeds in source:
        outputs, state = session.run(feeds, session.start(len(feeds["x"])) if state is None else state)
        yield outputs, state


def gather(
    session: StreamSession,
    ingest: Any,
    head: ModuleType,
    settings: dict[str, Any],
    encodings: Sequence[Any],
    **options: Any,
) -> list[Array]:
    """The head's numbers for each series by itself, from a fresh state: most of it in chunks, its end step by step."""
    found: list[Array] = []
    for encoding in encodings:
        cut = len(encoding) - min(SINGLE, len(encoding) // 2)
        pieces = chain(ingest.windows(encoding.x[:cut]), (encoding.x[at : at + 1] for at in range(cut, len(encoding))))
        with closing(stream(session, (ingest.batch([piece]).feeds for piece in pieces))) as steps:
            results = joined([outputs[RESULTS].copy() for outputs, _ in steps])
        (batch,) = ingest.batches([encoding])
        found += head.numbers({RESULTS: results}, batch, settings, **options)
    return found


def whole(
    session: StreamSession,
    ingest: Any,
    head: ModuleType,
    settings: dict[str, Any],
    encodings: Sequence[Any],
    **options: Any,
) -> list[Array]:
    """The head's numbers for each series, in their order: many side by side, in chunks. A series that has ended leaves
    the batch."""
    found: list[Any] = [None] * len(encodings)
    # Of a batch one chunk at a time is computed: that, and not the series' length, is what may not be too large.
    width = min(ingest.chunk_steps, max((len(encoding) for encoding in encodings), default=1))
    rows = max(1, session.batch_tokens // width)
    for group in ingest.groups(encodings, max_rows=rows):
        series = [encodings[row] for row in group]
        for row, results in zip(group, _side_by_side(session, ingest, series), strict=True):
            (batch,) = ingest.batches([encodings[row]])
            (found[row],) = head.numbers({RESULTS: results}, batch, settings, **options)
    return found


def _side_by_side(session: StreamSession, ingest: Any, series: Sequence[Any]) -> list[Array]:
    """The results of each of some series, the longest first."""
    alive, state = list(range(len(series))), session.start(len(series))
    found: list[list[Array]] = [[] for _ in series]
    windows = [ingest.windows(one.x) for one in series]
    pieces = [next(each) for each in windows]
    while alive:
        outputs, state = session.run(ingest.batch(pieces).feeds, state)
        for place, number in enumerate(alive):
            results = outputs[RESULTS][place : place + 1]
            found[number].append((results[:, : len(pieces[place])] if results.ndim == 3 else results).copy())
        more = [next(windows[number], None) for number in alive]
        kept = [place for place, piece in enumerate(more) if piece is not None]
        pieces = [piece for piece in more if piece is not None]
        if 0 < len(kept) < len(alive):
            state = session.rows(state, kept)
        alive = [alive[place] for place in kept]
    return [joined(each) for each in found]


def joined(results: Sequence[Array]) -> Array:
    """The results of a series' pieces as of the whole: one after the other, or the last where only the end has one."""
    return np.concatenate(results, axis=1) if results[-1].ndim == 3 else results[-1]
