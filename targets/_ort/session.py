"""An ONNX Runtime session behind EdgeKit's Session: what the cpu and the cuda target share.

A provider that was asked for is the one that runs, or there is no session. Engine errors become ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Graph
from edgekit.errors import BundleError, DeviceError, EdgeKitError, InputError, ResourceError
from edgekit.session import Life, check_feeds

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
        import onnxruntime as ort

        options.log_severity_level = QUIET
        self._graph = graph
        self._outputs = [port.name for port in graph.outputs]
        with engine_errors(f"ONNX Runtime cannot open {graph.path}"):
            self._engine = ort.InferenceSession(
                folder / graph.path,
                options,
                providers=[(provider, provider_options or {})],
                disabled_optimizers=list(without),
                enable_fallback=0,
            )
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
        with engine_errors(f"ONNX Runtime failed in {self._graph.path}"):
            found = self._engine.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, found)), None

    def bind(self, reads: Arrays, writes: Arrays) -> Callable[[], None]:
        """What runs the graph once on these arrays of the host, which the caller keeps where they are."""
        binding, run = self._engine.io_binding(), self._engine.run_with_iobinding
        for name, array in reads.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in writes.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

        def once() -> None:
            try:
                run(binding)
            except RuntimeError as error:
                raise bound_error(f"ONNX Runtime failed in {self._graph.path}", str(error)) from error

        return once

    def close(self) -> None:
        if self._life.end():
            del self._engine


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """ONNX Runtime's exceptions as ours: the meaning first, its own text under `cause`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except state.InvalidArgument as error:
        raise InputError(f"{what}: it does not take this input", cause=str(error)) from error
    except (state.NotImplemented, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile, state.NoModel) as error:
        raise BundleError(what, hint="export the model again with this version", cause=str(error)) from error
    except (state.Fail, state.RuntimeException, state.EPFail) as error:
        raise _by_text(what, str(error)) from error


def _by_text(what: str, text: str) -> EdgeKitError:
    lower = text.lower()
    if "alloc" in lower or "out of memory" in lower:
        return ResourceError(f"{what}: out of memory", hint="use fewer or shorter rows, or fewer bits", cause=text)
    if any(name in lower for name in ("cuda", "cublas", "cudnn")):
        return DeviceError(what, hint="see `edgekit doctor` for the driver and the libraries", cause=text)
    return BundleError(what, hint="run `edgekit verify` on the bundle", cause=text)


@contextmanager
def binding_errors(what: str) -> Iterator[None]:
    """With bound inputs ONNX Runtime raises RuntimeError for everything; only the text tells what it was."""
    try:
        yield
    except RuntimeError as error:
        raise bound_error(what, str(error)) from error


def bound_error(what: str, text: str) -> EdgeKitError:
    if "out of data bounds" in text or "cos_cache" in text:
        hint = "check that the tokenizer is this model's, and that the text fits its context"
        return InputError(f"{what}: it has no such token or position", hint=hint, cause=text)
    return _by_text(what, text)
