"""The loop of every model that is done in one run: encoders, classifiers, CNNs.

Knows nothing of what goes in or comes out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edgekit.core import Array, Batch, Session

    B = TypeVar("B", bound=Batch)


def once(session: Session, batches: Iterable[B]) -> Generator[tuple[B, dict[str, Array]], None, None]:
    """Each batch with its outputs, in order. A batch is made and run when it is asked for; closing cancels the rest.

    Raises what the session raises: InputError, ResourceError, ClosedError.
    """
    for batch in batches:
        outputs, _ = session.run(batch.feeds)
        yield batch, outputs
