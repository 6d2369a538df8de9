"""One step of a decoder, as a caller asks for it: its feeds checked, and its rows put together as they can be run.

Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Arrays

    Integers = NDArray[np.int64]

CHUNK = 128  # tokens to compute at once: more are no faster, and take memory


def step_of(feeds: Arrays) -> tuple[Integers, Integers, Integers]:
    """`input_ids`, `counts` and `logit_positions`, each in range. Raises InputError."""
    unknown = sorted(feeds.keys() - {"input_ids", "counts", "logit_positions"})
    if unknown:
        raise InputError(f"a decoder has no input {unknown[0]!r}", hint="give input_ids, counts, logit_positions")
    ids, counts = _integers(feeds, "input_ids", 2), _integers(feeds, "counts", 1)
    if not ids.size or len(counts) != len(ids) or (counts < 1).any() or (counts > ids.shape[1]).any():
        raise InputError(
            f"counts is {counts.tolist()} for input_ids {list(ids.shape)}",
            hint="give for each row how many of its tokens are real, at least one",
        )
    if ids.min() < 0:  # an engine may count it from the end of the table
        raise InputError(f"input_ids has {ids.min()}: the model has no such token", hint="ids count from 0")
    if "logit_positions" not in feeds:
        return ids, counts, counts[:, None] - 1
    wanted = _integers(feeds, "logit_positions", 2)
    if len(wanted) != len(ids) or (wanted < 0).any() or (wanted >= counts[:, None]).any():
        raise InputError(
            f"logit_positions {list(wanted.shape)} goes beyond the counts {counts.tolist()}",
            hint="give for each row places from 0 to its count, less one",
        )
    return ids, counts, wanted


def behind(ids: Integers, counts: Integers) -> Integers:
    """What is left of each row without its first so many tokens, padded on the right."""
    left = np.zeros_like(ids)
    for row, count in enumerate(counts):
        left[row, : ids.shape[1] - count] = ids[row, count:]
    return left


def together(lengths: Integers, counts: Integers) -> Iterator[slice]:
    """The rows that ONNX Runtime can run at once, which are all for one token each.

    Rows of more tokens than one go together if nothing is before them (what is behind a shorter one is padding, which
    later tokens overwrite), and as long as that is not too much at once. GroupQueryAttention takes only a single row
    of several tokens with a past.
    """
    if (counts == 1).all():
        yield slice(0, len(counts))
        return
    first = 0
    for last in range(1, len(counts) + 1):
        more = slice(first, last + 1)
        size = (last + 1 - first) * counts[more].max()
        if last == len(counts) or lengths[more].any() or size > CHUNK:
            yield slice(first, last)
            first = last


def _integers(feeds: Arrays, name: str, rank: int) -> Integers:
    array = feeds.get(name)
    if array is None or array.dtype != np.int64 or array.ndim != rank:
        found = "missing" if array is None else f"{array.dtype.name} {list(array.shape)}"
        raise InputError(f"input {name!r} is {found}", hint=f"expected int64 with {rank} axes")
    return array
