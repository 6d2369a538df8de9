"""The loop of models that need one run: encoders, classifiers, CNNs.

Knows nothing of what goes in or comes out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edgekit.core import Array
    from edgekit.session import Batch, Session

    B = TypeVar("B", bound=Batch)


def once(session: Session, batches: Iterable[B]) -> Generator[tuple[B, dict[str, Array]], None, None]:
    """Each batch with its outputs, in order. A batch is made and run when it is asked for; closing cancels the rest.

    Raises what the session raises: InputError, ResourceError, ClosedError.
    """
    for batch in batches:
        outputs, _ = session.run(batch.feeds)
        yield batch, outputs


def batches(
    session: Session, ingest: Any, encodings: Sequence[Any], *, max_tokens: int | None = None
) -> Iterator[Batch]:
    """The encodings in batches in the shapes that the engine likes, of at most `max_tokens` tokens."""
    most = session.batch_tokens if max_tokens is None else min(session.batch_tokens, max_tokens)
    found: Iterator[Batch] = ingest.batches(encodings, multiple=session.length_step, max_tokens=most)
    return found


def gather(
    session: Session,
    batches: Iterable[Batch],
    head: ModuleType,
    settings: dict[str, Any],
    count: int,
    **options: Any,
) -> list[Array]:
    """The head's numbers for each of `count` items, in the items' order, whatever the order of the batches."""
    rows: list[Any] = [None] * count
    with closing(once(session, batches)) as steps:
        for batch, outputs in steps:
            for row, numbers in zip(batch.rows, head.numbers(outputs, batch, settings, **options), strict=True):
                rows[row] = numbers
    return rows
