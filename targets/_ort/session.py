"""An ONNX Runtime session behind EdgeKit's Session: what the cpu and the cuda target share.

A provider that was asked for is the one that runs, or there is no session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Graph
from edgekit.errors import DeviceError
from edgekit.machine.native_calls import enter, keep_in_children, leave
from edgekit.session import Life, check_feeds

from .engine import exceptions, onnxruntime, opening, run_error, running

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays

QUIET = 4  # ONNX Runtime's log level for fatal errors only: what goes wrong is raised, not printed


class OnnxRuntimeSession:
    """One graph in ONNX Runtime. Threads may share it: `Run` is safe to call from several at once."""

    length_step = 1
    batch_tokens = 512

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        provider: str,
        options: Any,
        provider_options: dict[str, Any] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        """`without`: names of optimizers to leave out. Raises BundleError, DeviceError, ResourceError."""
        options.log_severity_level = QUIET
        self._graph = graph
        self._outputs = [port.name for port in graph.outputs]
        with opening(graph.path):
            self._engine = onnxruntime().InferenceSession(
                folder / graph.path,
                options,
                providers=[(provider, provider_options or {})],
                disabled_optimizers=list(without),
                enable_fallback=0,
            )
        keep_in_children(self._engine)
        self.placement = self._engine.get_providers()[0]
        if self.placement != provider:
            raise DeviceError(
                f"asked for {provider}, and ONNX Runtime fell back to {self.placement}",
                hint="see `edgekit list targets` for what this machine has",
            )
        self._life = Life("this session")

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """Outputs by name. Raises InputError, ResourceError, ClosedError, ForkedSessionError."""
        self._life.check()
        check_feeds(self._graph, feeds)
        with running(self._graph.path):
            found = self._engine.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, found)), None

    def bind(self, reads: Arrays, writes: Arrays) -> Callable[[], None]:
        """What runs the graph once on these arrays of the host, which the caller keeps where they are."""
        binding, run, path = self._engine.io_binding(), self._engine.run_with_iobinding, self._graph.path
        for name, array in reads.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in writes.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

        def once() -> None:
            enter()
            try:
                run(binding)
            except exceptions() as error:
                raise run_error(path, error) from error
            finally:
                leave()

        return once

    def close(self) -> None:
        if self._life.end():
            del self._engine
