"""The part of a decoder that reads prompts: another graph on the same caches, which says nothing.

Knows which tokens of a step are worth it, and the graph that `_prompt_graph` made; whose caches they are is the
decoder session's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.machine.memory_pages import giving_back

from .passes.decoder_graph import COUNTS, LENGTHS, POSITIONS, TOTAL
from .session import OnnxRuntimeSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Arrays, Graph

    Integers = NDArray[np.int64]

CHUNK = 256  # tokens at a time: of more the attention costs more than the products gain
LEAST = 32  # tokens that are worth it
# Seconds between pages of weights given back: what a short prompt reads is there for the next one.
OFTEN = 0.35


def silent(counts: Integers, wanted: Integers) -> Integers:
    """How many of each row's new tokens come before the first whose logits are wanted; 0 where they are too few."""
    before = wanted.min(1) if wanted.shape[1] else counts
    return np.where(before >= LEAST, before, 0)


class PromptReader(OnnxRuntimeSession):
    """Fills caches; it is read from and closed by the decoder's session, which knows whose they are."""

    chunk_tokens = CHUNK

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        without: Sequence[str],
        weights: Arrays,
        kept: Path | None,
    ) -> None:
        """As OnnxRuntimeSession; `weights` are the inputs that stand for weights, mapped from a file in `kept`."""
        super().__init__(folder, graph, provider, options, without=without)
        self._weights, self._kept = weights, kept
        self._told = {port.name for port in graph.inputs}

    def read(
        self,
        ids: Integers,
        length: int,
        bind_states: Callable[[Any], None],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Put the tokens (n,) of one row, behind the `length` that its state holds, into it; `then` after each run."""
        with giving_back(self._kept, every=OFTEN) if self._kept else nullcontext():
            self._read(ids, length, bind_states, then)

    def _read(self, ids: Integers, length: int, bind_states: Callable[[Any], None], then: Callable[[], None]) -> None:
        for chunk in chunks(len(ids)):
            binding = self._engine.io_binding()
            bind_states(binding)
            for name, array in self._weights.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            begin, end = length + chunk.start, length + chunk.stop
            binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids[None, chunk]))
            told = {
                LENGTHS: np.array([end - 1], np.int32),
                TOTAL: np.array(end, np.int32),
                POSITIONS: np.arange(begin, end)[None],
                COUNTS: np.array([end - begin]),
            }
            for name in told.keys() & self._told:
                binding.bind_cpu_input(name, told[name])
            self._engine.run_with_iobinding(binding)
            then()


def chunks(count: int) -> Iterator[slice]:
    """As few as can be, of nearly equal length."""
    number = -(-count // CHUNK)
    edges = [count * each // number for each in range(number + 1)]
    yield from map(slice, edges, edges[1:])
