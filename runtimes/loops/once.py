"""The loop of every model that is done in one run: encoders, classifiers, CNNs.

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


ALONE = False  # activations of a batch may share a scale, so what is said of an item may depend on the others


def once(session: Session, batches: Iterable[B]) -> Generator[tuple[B, dict[str, Array]], None, None]:
    """Each batch with its outputs, in order. A batch is made and run when it is asked for; closing cancels the rest.

    Raises what the session raises: InputError, ResourceError, ClosedError.
    """
    for batch in batches:
        outputs, _ = session.run(batch.feeds)
        yield batch, outputs


def batches(session: Session, ingest: Any, head: ModuleType, encodings: Sequence[Any]) -> Iterator[Batch]:
    """The encodings in batches: not more than the head allows, in the shapes that the engine likes."""
    most = min(session.batch_tokens, getattr(head, "MAX_TOKENS", session.batch_tokens))
    made: Iterator[Batch] = ingest.batches(encodings, multiple=session.length_step, max_tokens=most)
    return made


def gather(
    session: Session,
    ingest: Any,
    head: ModuleType,
    settings: dict[str, Any],
    encodings: Sequence[Any],
    **options: Any,
) -> list[Array]:
    """The head's numbers for each encoding, in the encodings' order, whatever the order of the batches."""
    found: list[Any] = [None] * len(encodings)
    with closing(once(session, batches(session, ingest, head, encodings))) as steps:
        for batch, outputs in steps:
            for row, numbers in zip(batch.rows, head.numbers(outputs, batch, settings, **options), strict=True):
                found[row] = numbers
    return found
