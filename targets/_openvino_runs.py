"""The runs of one compiled decoder in OpenVINO, one after the other, of which long ones can be broken off.

OpenVINO 2026.4 keeps, for all requests of a model together, the shapes that each operation last saw, and computes no
shapes again that seem not to have changed. A run that ends in the middle leaves some of them from before it and others
of its own: a next run of the shapes from before would go wrong. So it is followed by a short run of shapes that no
operation has seen.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._openvino_engine import new_request
from ._openvino_stateful import ORDER

if TYPE_CHECKING:
    from edgekit.core import Array

PATIENCE = 50  # milliseconds between two looks for an interrupt in a long run
LONG = 32  # tokens of a run that may be interrupted: for fewer, the looks would cost more than they save


class Shape(NamedTuple):
    batch: int
    tokens: int
    places: int
    outputs: int

    def sizes(self) -> set[int]:
        """What an operation may have seen as the length of an axis that is not the batch alone."""
        return {self.tokens, self.places, self.batch * self.tokens, self.batch * self.places}


class Runs:
    """Threads may share it: their runs take turns."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._turn = threading.Lock()
        self._last = Shape(0, 0, 0, 0)  # of the last run that came to its end
        self._whole = True  # no run has ended in the middle since

    def infer(self, request: Any, feeds: dict[str, Array]) -> None:
        """Run, and let go at once of a long run that is interrupted. Raises RuntimeError, as OpenVINO does."""
        with self._turn:
            if not self._whole:
                other = other_feeds(self._last)
                _infer(new_request(self._compiled), {name: other[name] for name in feeds})
            self._whole = False
            _infer(request, feeds)
            self._last, self._whole = shape_of(feeds), True


def _infer(request: Any, feeds: dict[str, Array]) -> None:
    if feeds["input_ids"].shape[1] < LONG:
        request.infer(feeds, share_inputs=True)
        return
    try:
        request.start_async(feeds, share_inputs=True)
        while not request.wait_for(PATIENCE):
            pass
    except BaseException:
        request.cancel()
        with suppress(RuntimeError):  # it says that it was cancelled
            request.wait()
        raise
    request.wait()


def shape_of(feeds: Mapping[str, Array]) -> Shape:
    batch, tokens = feeds["input_ids"].shape
    places = feeds["attention_mask"].shape[1] if "attention_mask" in feeds else tokens
    return Shape(batch, tokens, places, feeds["logit_positions"].shape[1])


def other_feeds(last: Shape) -> dict[str, Array]:
    """Feeds of an empty state with no length in them that `last` has."""
    batch, outputs = last.batch + 1, 2 if last.outputs == 1 else 1
    tokens = next(n for n in count(1) if not {n, batch * n} & last.sizes())
    return {
        "input_ids": np.zeros((batch, tokens), np.int64),
        "counts": np.full(batch, tokens),
        "position_ids": np.tile(np.arange(tokens), (batch, 1)),
        "attention_mask": np.ones((batch, tokens), np.int64),
        "logit_positions": np.zeros((batch, outputs), np.int64),
        ORDER: np.arange(batch, dtype=np.int32),
    }
