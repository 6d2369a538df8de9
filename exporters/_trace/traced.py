"""Base class of exporters that trace: turns `Tracing`s into graphs, proofs and reference sessions.

A family's dataclass inherits `Traced` and says how its modules are made; this file knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import Graph, Port, Recipe, Source

from . import trace as tracer
from .trace import Tracing, quiet

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays, Say


class Traced:
    """Base of exporters that trace torch modules; `edgekit.quantize` quantizes what they trace."""

    needs_torch: ClassVar[bool] = True
    quantizes: ClassVar[bool] = False
    as_stored: ClassVar[bool] = False
    kind: ClassVar[str] = "plain"
    precision: ClassVar[str] = "int8"
    group_sizes: ClassVar[Mapping[str, int | None]] = {}

    def trace(self, source: Source, task: str) -> Tracing:
        """The one module of a model that is a single graph. Raises UnsupportedError."""
        raise NotImplementedError(f"{type(self).__name__}.trace")

    def tracings(self, source: Source, task: str) -> Mapping[str, Tracing]:
        """The modules of all graphs, by name."""
        return {"model": self.trace(source, task)}

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """Trace each module to `NAME.onnx`, with `proof-NAME.npz` beside it.

        Raises UnsupportedError, VerificationError.
        """
        found = []
        for name, tracing in _loaded(self, source, task, say).items():
            say("tracing with torch.onnx.export")
            with quiet():
                program = tracer.export(tracing)
            tracer.check(program.model, tracing)
            program.save(str(folder / f"{name}.onnx"), external_data=True)
            tracer.answer(tracing, folder / f"proof-{name}.npz", tracer.proof_feeds(tracing))
            proven = {axis: tuple(sizes[axis] for sizes in tracing.shapes) for axis in tracing.shapes[0]}
            found.append(replace(described(program.model, name, f"{name}.onnx"), proven=proven, kind=self.kind))
        return tuple(found)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> dict[str, TorchSession]:
        """Torch's own modules as sessions."""
        return {name: TorchSession(tracing) for name, tracing in _loaded(self, source, task, say).items()}


class TorchSession:
    """A torch module as a plain session."""

    placement, length_step, batch_tokens = "torch", 1, 512

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """The module's outputs by name; it has no state."""
        import torch

        tracing = self._tracing
        with torch.inference_mode():
            outputs = tracing.module(*(torch.from_numpy(feeds[name]) for name in tracing.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.numpy() for name, value in zip(tracing.outputs, outputs, strict=True)}, None

    def close(self) -> None:
        """There is nothing to free."""


def described(model: Any, name: str, path: str) -> Graph:
    """The Graph noun of an onnx_ir model in the file `path`."""

    def port(value: Any) -> Port:
        axes = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
        return Port(value.name, value.dtype.numpy().name, axes)

    return Graph(name, path, tuple(map(port, model.graph.inputs)), tuple(map(port, model.graph.outputs)))


_last: list[tuple[tuple[object, ...], Mapping[str, Tracing]]] = []  # of this process: graphs, then the reference


def _loaded(exporter: Traced, source: Source, task: str, say: Say) -> Mapping[str, Tracing]:
    """The modules, whose weights a worker loads once."""
    key = (exporter, source.id, source.folder, source.revision, task)
    if not _last or _last[0][0] != key:
        say("loading weights")
        with quiet():
            _last[:] = [(key, exporter.tracings(source, task))]
    return _last[0][1]
