"""A decoder in OpenVINO on blocks of keys and values: a state is an infer request and the blocks that it writes to.

The tokens of all rows lie one behind the other in a step, and each row has its own table of blocks. So rows of any
length go together without padding (but for a few tokens, see `_padding`), a long prompt can be read in parts at no
cost, and what is cut off or picked is a matter of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import UnsupportedError

from ._kv_blocks import STORED, Blocks, Form
from ._openvino_decoder import Decoder, Requested, changing
from ._openvino_engine import new_request
from ._openvino_paged import BLOCK, PLACES
from ._openvino_stateful import POSITIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core import Array, Arrays

    Integers = NDArray[np.int64]

TABLES = "block_indices"
FEW, STEP = 4, 8  # a step of more tokens than that is one of a multiple of this


@dataclass(eq=False)
class Pages(Requested):
    """The state of some rows of text."""

    request: Any
    blocks: Blocks
    lengths: Integers


class PagedSession(Decoder[Pages]):
    """A model of `_openvino_paged.page`."""

    chunk_tokens = 256  # as fast as 512, whatever is in the cache already; an interrupt ends one of them

    def __init__(self, graph: Graph, compiled: Any) -> None:
        super().__init__(graph, compiled)
        ports = {name: port for port in compiled.inputs for name in port.get_names() if name in self._growing}
        self._forms = {name: _form(name, ports[name], int(port.shape[3])) for name, port in self._growing.items()}

    def _step(self, state: Pages, ids: Integers, counts: Integers, wanted: Integers) -> None:
        new = np.arange(ids.shape[1])
        real = new < counts[:, None]
        lengths, before = state.lengths + counts, np.cumsum(counts) - counts
        run = counts.copy()
        run[-1] += (more := _padding(int(counts.sum())))  # behind its text, where the next step writes over it
        with changing(state) as request:
            if state.blocks.reserve(state.lengths, run):
                _bind(request, state.blocks, self._forms)
            tables = state.blocks.tables
            feeds = {
                "input_ids": np.pad(ids[real], (0, more)),
                POSITIONS: np.pad((state.lengths[:, None] + new)[real], (0, more)),
                "past_lens": state.lengths.astype(np.int32),
                "subsequence_begins": _begins(run),
                TABLES: np.concatenate(tables).astype(np.int32),
                "block_indices_begins": _begins([len(table) for table in tables]),
                "max_context_len": np.array((state.lengths + run).max(), np.int32),
                PLACES: before[:, None] + wanted,
            }
            self._runs.infer(request, feeds)
            state.blocks.cut(lengths)
            state.lengths = lengths

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


def _padding(tokens: int) -> int:
    """How many to add to a step of so many, so that OpenVINO does not meet all numbers that there are.

    For each it makes other kernels, and oneDNN keeps the last thousand: half a MB a number, of a small model too.
    """
    return -tokens % STEP if tokens > FEW else 0


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
