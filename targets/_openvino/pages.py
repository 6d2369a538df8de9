"""A decoder in OpenVINO on blocks of keys and values: a state is an infer request and the blocks that it writes to.

The tokens of all rows lie one behind the other in a step, and each row has its own table of blocks. So rows of any
length go together without padding (but for a few tokens, see `parts`), long steps are run in parts at no cost, and what
is cut off or picked is a matter of tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import UnsupportedError

from .._states.kv_blocks import STORED, Blocks, Form
from .decoder import Decoder, Requested, changing
from .engine import new_request
from .paged_graph import BLOCK, PLACES
from .stateful import POSITIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

TABLES = "block_indices"
FEW, STEP = 4, 8  # a run of more tokens than that is one of a multiple of this
WIDE, WIDEST = 64, 128  # a run of more tokens than that is one of this many: parts of 64 take a tenth longer


@dataclass(eq=False)
class Pages(Requested):
    """The state of some rows of text."""

    request: Any
    blocks: Blocks
    lengths: Integers


class PagedSession(Decoder[Pages]):
    """A model of `_openvino_paged_graph.page`."""

    chunk_tokens = 256  # as fast as 512, whatever is in the cache already; an interrupt ends one of them

    def __init__(self, graph: Graph, compiled: Any) -> None:
        super().__init__(graph, compiled)
        ports = {name: port for port in compiled.inputs for name in port.get_names() if name in self._growing}
        self._forms = {name: _form(name, ports[name], int(port.shape[3])) for name, port in self._growing.items()}

    def _step(self, state: Pages, ids: Integers, counts: Integers, wanted: Integers) -> Array:
        new = np.arange(ids.shape[1])
        tokens, places = ids[new < counts[:, None]], np.cumsum(counts)[:, None] - counts[:, None] + wanted
        found = None
        with changing(state):
            for part in parts(len(tokens)):
                here = (places >= part.start) & (places < part.stop)
                logits = self._run(state, tokens[part], _within(counts, part), places[here] - part.start)
                if part.stop == len(tokens) and here.all():
                    return logits
                if here.any():
                    found = np.empty((*here.shape, self.vocabulary), np.float32) if found is None else found
                    found[here] = logits
        assert found is not None
        return found

    def _run(self, state: Pages, tokens: Integers, counts: Integers, places: Integers) -> Array:
        """Logits at these places among the tokens, of which so many are each row's."""
        request, rows = state.request, np.flatnonzero(counts)
        lengths = state.lengths + counts
        run, more = counts.copy(), padding(len(tokens))
        run[rows[-1]] += more  # behind its text, where the next run writes over it
        if state.blocks.reserve(state.lengths, run):
            _bind(request, state.blocks, self._forms)
        tables = [state.blocks.tables[row] for row in rows]
        positions = np.concatenate([np.arange(state.lengths[row], lengths[row]) for row in rows])
        feeds = {
            "input_ids": np.pad(tokens, (0, more)),
            POSITIONS: np.pad(positions, (0, more)),
            "past_lens": state.lengths[rows].astype(np.int32),
            "subsequence_begins": _begins(run[rows]),
            TABLES: np.concatenate(tables).astype(np.int32),
            "block_indices_begins": _begins([len(table) for table in tables]),
            "max_context_len": np.array((state.lengths + run)[rows].max(), np.int32),
            PLACES: places[None],
        }
        self._runs.infer(request, feeds)
        state.blocks.cut(lengths)
        state.lengths = lengths
        return request.get_tensor("logits").data.reshape(-1, self.vocabulary)

    def _empty(self, batch: int, capacity: int) -> Pages:
        blocks = batch * -(-capacity // BLOCK) + 1  # one more for what is behind a text
        return self._of(Blocks(self._forms, batch, blocks), np.zeros(batch, np.int64))

    def _copied(self, state: Pages, rows: Sequence[int]) -> Pages:
        return self._of(state.blocks.copy(rows), state.lengths[list(rows)])

    def _taken(self, state: Pages, rows: Sequence[int]) -> Pages:
        with changing(state):
            state.blocks.pick(rows)
        return Pages(self, state.request, state.blocks, state.lengths[list(rows)])

    def _cut(self, state: Pages, lengths: Integers) -> None:
        with changing(state):
            state.blocks.cut(lengths)
            state.lengths = lengths

    def _arrays(self, state: Pages) -> dict[str, Array]:
        longest = int(state.lengths.max())
        return {name: state.blocks.read(name, longest) for name in self._growing}

    def _filled(self, lengths: Integers, arrays: Arrays) -> Pages:
        state = self._empty(len(lengths), int(lengths.max()))
        state.blocks.reserve(state.lengths, lengths)
        for name in self._growing:
            state.blocks.write(name, arrays[name])
        state.lengths = lengths
        return state

    def _size(self, state: Pages) -> int:
        return state.blocks.nbytes

    def _of(self, blocks: Blocks, lengths: Integers) -> Pages:
        request = new_request(self._compiled)
        _bind(request, blocks, self._forms)
        return Pages(self, request, blocks, lengths)


def _bind(request: Any, blocks: Blocks, forms: dict[str, Form]) -> None:
    """Let the request read and write these blocks, where they are."""
    import openvino

    request.blocks = blocks  # an interrupted run goes on with them
    for name, array in blocks.arrays.items():
        kind = openvino.Type.bf16 if forms[name].kind == "bf16" else openvino.Type(array.dtype)
        request.set_tensor(name, openvino.Tensor(array, openvino.Shape(array.shape), kind))


def parts(tokens: int) -> Iterator[slice]:
    """The runs that a step of so many tokens is made of.

    For each number of tokens OpenVINO makes other kernels, and oneDNN keeps the last thousand: half a MB a number, of a
    small model too. So it meets few of them: with `padding`, 13.
    """
    at = 0
    while (left := tokens - at) > WIDE:
        size = WIDEST if left >= WIDEST else WIDE
        yield slice(at, at + size)
        at += size
    if left:
        yield slice(at, tokens)


def padding(tokens: int) -> int:
    """How many to add to a run of so many, for the same reason."""
    return -tokens % STEP if tokens > FEW else 0


def _within(counts: Integers, part: slice) -> Integers:
    """How many tokens of each row are in that part of all."""
    ends = np.cumsum(counts)
    return np.clip(ends, part.start, part.stop) - np.clip(ends - counts, part.start, part.stop)


def _begins(counts: Sequence[int] | Integers) -> Array:
    """Where each of these parts begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _form(name: str, port: Any, dim: int) -> Form:
    """How the engine wants the blocks of one input. Raises UnsupportedError for a way that is not known here."""
    _, heads, tokens, width = (axis.get_length() if axis.is_static else 0 for axis in port.get_partial_shape())
    form = Form(port.get_element_type().get_type_name(), heads, BLOCK, dim)
    if form.kind not in STORED or form.shape != (heads, tokens, width):
        raise UnsupportedError(f"OpenVINO keeps {name} as {form.kind} {heads} x {tokens} x {width}")
    return form
