"""Tiny recurrent models for tests: folders as a user would write them, and torch's own answers, row by row.

`Torch` knows no padding, no chunks and no gates' order: what a graph gives must be what it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np

from edgekit.core import Graph, Recipe, Source

FEATURES, HIDDEN = 3, 6
Run = tiny.Run


@dataclass(frozen=True)
class Torch:
    """The modules of a folder: `config` says how they go together."""

    rnn: Any
    head: Any
    config: dict[str, Any]

    def whole(self, series: Any) -> tuple[Any, dict[str, Any]]:
        """Of one series (time, features): results of its steps (time, results), or of its end, and the last states."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(series)[None]
            out, last = self.rnn(x)
            hidden, *cell = last if isinstance(last, tuple) else (last,)
            if self.config["head"] == "anomaly":
                y = self._missed(x, out)
                y = y.mean(1) if self._ends else y
            elif self._ends:
                y = self.head(torch.cat([*hidden[-2 if self.rnn.bidirectional else -1 :]], 1))
            else:
                y = self.head(out)
        states = {f"h.{n}": each[None].numpy() for n, each in enumerate(hidden)}
        states |= {f"c.{n}": each[None].numpy() for n, each in enumerate(cell[0] if cell else ())}
        return y[0].numpy(), states

    @property
    def _ends(self) -> bool:
        return self.config.get("per") == "end"

    def _missed(self, x: Any, out: Any) -> Any:
        import torch

        if self.config.get("score", "prediction") == "prediction":
            out = torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1)
        return (x - self.head(out)).square().mean(-1, keepdim=True)


def config_of(cell: str, **changes: Any) -> dict[str, Any]:
    sizes = {"input_size": FEATURES, "hidden_size": HIDDEN, "head": "regression", "outputs": ["a", "b"]}
    return {"model_type": cell, **sizes, **changes}


def trained(
    folder: Path, cell: str, *, spread: float = 0.6, biased: bool = True, **changes: Any
) -> tuple[Source, Torch]:
    """A folder with weights drawn wide, and torch's modules with the same ones."""
    import torch

    config = config_of(cell, **changes)
    modules = _modules(config, biased)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in (*modules.rnn.parameters(), *modules.head.parameters()):
            parameter.uniform_(-spread, spread)
    return saved(folder, modules), modules


def saved(folder: Path, modules: Torch) -> Source:
    arrays = {f"rnn.{name}": value.numpy() for name, value in modules.rnn.state_dict().items()}
    arrays |= {f"head.{name}": value.numpy() for name, value in modules.head.state_dict().items()}
    return tiny.folder_of(folder, modules.config, arrays)


def _modules(config: dict[str, Any], biased: bool) -> Torch:
    import torch

    kind = getattr(torch.nn, config["model_type"].upper())
    known = ("num_layers", "bidirectional", "bias", "nonlinearity", "proj_size")
    told = {key: config[key] for key in known if key in config}
    rnn = kind(config["input_size"], config["hidden_size"], batch_first=True, **told).eval()
    width = (config.get("proj_size") or config["hidden_size"]) * (2 if config.get("bidirectional") else 1)
    names = config.get("labels") or config.get("outputs") or range(config.get("head_size", 0))
    results = len(names) * config.get("horizon", 1) * len(config.get("quantiles") or [0])
    results = config["input_size"] if config["head"] == "anomaly" else results
    return Torch(rnn, torch.nn.Linear(width, results, bias=biased), config)


def series(lengths: Sequence[int], features: int = FEATURES, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(length, features)).astype(np.float32) for length in lengths]


def zeros(graph: Graph, batch: int) -> dict[str, Any]:
    """The states before anything was fed."""
    ports = {port.name: port.shape for port in graph.inputs}
    return {
        state.into: np.zeros([axis if isinstance(axis, int) else batch for axis in ports[state.into]], np.float32)
        for state in graph.states
    }


def feed(run: Run, graph: Graph, rows: Sequence[Any], states: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A call with rows of any lengths, none too; the padding is not zero, so that it would be seen. Gives y and the
    states for the next call."""
    counts = np.array([len(row) for row in rows], np.int64)
    x = np.full((len(rows), max(1, counts.max()), rows[0].shape[1]), 0.7, np.float32)
    for number, row in enumerate(rows):
        x[number, : len(row)] = row
    outputs = run({"x": x, "counts": counts, **states})
    return outputs["y"], {state.into: outputs[state.out] for state in graph.states}


def fed(run: Run, graph: Graph, rows: Sequence[Any], cuts: Sequence[Sequence[int]]) -> tuple[list[Any], dict[str, Any]]:
    """Each row in as many pieces as `cuts` has, of the lengths that they say: results of its steps put together, or
    those at its end, and the states at last."""
    states, found, done = zeros(graph, len(rows)), [[] for _ in rows], [0] * len(rows)
    for cut in cuts:
        pieces = [row[begin : begin + length] for row, begin, length in zip(rows, done, cut, strict=True)]
        y, states = feed(run, graph, pieces, states)
        for number, length in enumerate(cut):
            done[number] += length
            if y.ndim == 3:
                found[number].extend(y[number, :length])
            else:
                found[number] = y[number]
    assert done == [len(row) for row in rows]
    return [np.asarray(each) for each in found], states


def build(source: Source, recipe: Recipe | None = None) -> Graph:
    return tiny.build(source, source.folder, recipe)
