"""A decoder's session in the plainest way: the portable graph in ONNX Runtime, its caches numpy arrays that are copied.

What `edgekit.core.DecoderSession` asks for and nothing clever: a reference for sessions, and what loops are tested on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core import Graph
from edgekit.errors import StateError


@dataclass(eq=False)
class Held:
    """`caches` are (batch, heads, slots, dim); `mask` (batch, slots) is 1 where a slot holds a token."""

    caches: dict[str, Any]
    mask: Any

    @property
    def lengths(self) -> Any:
        return self.mask.sum(axis=1)


class PortableSession:
    """`runs` are the shapes of all feeds, in order."""

    placement = "CPUExecutionProvider"
    length_step = 1
    batch_tokens = chunk_tokens = 512

    def __init__(self, folder: Path, graph: Graph) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / graph.path), options)
        self._graph = graph
        self._ports = {port.name: port for port in graph.inputs}
        self.runs: list[tuple[int, int]] = []

    def run(self, feeds: Mapping[str, Any], states: Any = None) -> tuple[dict[str, Any], Held]:
        ids, counts = feeds["input_ids"], feeds["counts"]
        assert ((counts >= 1) & (counts <= ids.shape[1])).all()
        self.runs.append(ids.shape)
        new = np.arange(ids.shape[1])
        real = (new < counts[:, None]).astype(np.int64)
        mask = np.concatenate([states.mask, real], axis=1)
        known = {
            "input_ids": ids,
            "position_ids": states.lengths[:, None] + np.minimum(new, counts[:, None] - 1),
            "attention_mask": mask,
            "logit_positions": feeds.get("logit_positions", counts[:, None] - 1),
            **states.caches,
        }
        names = [port.name for port in self._graph.outputs]
        outputs = dict(zip(names, self._session.run(names, {name: known[name] for name in self._ports}), strict=True))
        caches = {state.into: outputs[state.out] for state in self._graph.states}
        return {"logits": outputs["logits"]}, Held(caches, mask)

    def start(self, batch: int, capacity: int) -> Held:
        return Held(
            {name: np.zeros((batch, heads, 0, dim), np.float32) for name, (heads, dim) in self._sizes().items()},
            np.zeros((batch, 0), np.int64),
        )

    def fork(self, state: Held) -> Held:
        return self.rows(state, range(len(state.mask)))

    def trim(self, state: Held, lengths: Sequence[int]) -> Held:
        if (state.lengths < np.asarray(lengths)).any():
            raise StateError(f"rows of {state.lengths.tolist()} tokens cannot be cut to {list(lengths)}")
        count = state.mask.cumsum(axis=1)
        return Held(state.caches, state.mask * (count <= np.asarray(lengths)[:, None]))

    def rows(self, state: Held, rows: Sequence[int]) -> Held:
        return Held({name: cache[list(rows)] for name, cache in state.caches.items()}, state.mask[list(rows)])

    def save(self, state: Held) -> dict[str, Any]:
        """The tokens of each row from the left, without the slots that hold none."""
        order = np.argsort(1 - state.mask, axis=1, kind="stable")[:, : state.lengths.max(initial=0)]
        caches = {name: np.take_along_axis(held, order[:, None, :, None], 2) for name, held in state.caches.items()}
        return {**caches, "lengths": state.lengths}

    def load(self, arrays: Mapping[str, Any]) -> Held:
        lengths = arrays.get("lengths", np.zeros((0,), np.int64))
        for name, (heads, dim) in self._sizes().items():
            shape = (len(lengths), heads, lengths.max(initial=0), dim)
            if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != np.float32:
                raise StateError(f"the saved state has no {name} of {shape}")
        mask = (np.arange(lengths.max(initial=0)) < lengths[:, None]).astype(np.int64)
        return Held({name: arrays[name] for name in self._sizes()}, mask)

    def nbytes(self, state: Held) -> int:
        return sum(cache.nbytes for cache in state.caches.values()) + int(state.mask.nbytes)

    def close(self) -> None:
        """Nothing is held but Python's objects."""

    def _sizes(self) -> dict[str, tuple[int, int]]:
        shapes = {state.into: self._ports[state.into].shape for state in self._graph.states}
        return {name: (int(shape[1]), int(shape[3])) for name, shape in shapes.items()}
