"""Target openvino: OpenVINO on the CPU.

A precision is what computes: fp32 is asked for as f32, since OpenVINO's own choice on a CPU with AMX is bf16, which is
here a precision of its own. int8 weights stay int8, and OpenVINO quantizes activations as they come, in groups along
each row.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import distribution
from edgekit.core import Availability, Graph, Recipe, check_options
from edgekit.footprint import ANY, Footprint
from edgekit.machine.memory_pages import give_back
from edgekit.session import Life, Session, check_feeds

from ._openvino.compile_cache import Ask, ask, compile_cached
from ._openvino.decoder import ask as ask_decoder
from ._openvino.defaults import CACHE, arithmetic, computes, properties
from ._openvino.engine import DEVICE, core, new_request, opening, placement, read_model, running
from ._openvino.paged_graph import keeps, mark, page, pageable
from ._openvino.pages import PagedSession
from ._openvino.rotary import write_out_rotary
from ._openvino.stateful import stateful, warn_if_loose
from ._openvino.variables import BYTES, VariableSession
from ._states.held_session import HeldSession
from ._states.large_pages import large_pages
from ._states.stream_session import StreamSession

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Arrays

PRECISIONS = ("fp32", "bf16", "int8", "int4")
ROUNDED = {"KEY_CACHE_QUANT_MODE": "BY_TOKEN"}  # keys in blocks, as values are: what was rounded once stays as it is
# What a bundle may set. Not the precision: that is the recipe's, and what was proved.
OPTIONS: dict[str, tuple[str, ...] | range] = {
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": range(4097),
    "CPU_RUNTIME_CACHE_CAPACITY": range(5001),
    "KV_CACHE_PRECISION": ("f32", "f16", "bf16", "u8"),
}


def probe() -> Availability:
    """Whether OpenVINO is installed; nothing is imported."""
    try:
        return Availability("openvino", True, "OpenVINO", version("openvino"))
    except PackageNotFoundError:
        why, hint = "openvino is not installed", distribution.install("openvino")
        return Availability("openvino", False, "OpenVINO", "", why, hint)


def compile(model: ir.Model, recipe: Recipe, options: Mapping[str, str] | None = None, *, kind: str) -> ir.Model:
    """The portable graph is what OpenVINO reads, but for rotary positions, which its cache would spoil, and for the
    names of masks; in place."""
    write_out_rotary(model)
    if kind == "decoder":
        mark(model)
    return model


def facts(recipe: Recipe, graph: Graph) -> dict[str, Any]:
    """What a report says of the engine."""
    return {"engine": "OpenVINO", "version": probe().version, "device": DEVICE, "computes": computes(recipe, graph)}


def footprint(graph: Graph, recipe: Recipe, options: Mapping[str, str]) -> Footprint:
    """In memory: weights as they were packed, and while that happens the file that they are packed of."""
    held = Footprint(
        base=20_000_000,
        libraries=96_000_000,
        node=25_000,
        opening=10_000_000,
        weights=1.0,
        mapped=1.0,
        tied=0.0,
        item=2 if computes(recipe, graph) == "bf16" else 4,
        kernels=0.6,
        live=10.0,
        row=2.5,
        scores=0.0,
        together=OpenVinoSession.batch_tokens,
        asked=OpenVinoSession.batch_tokens,
    )
    if graph.kind == "plain":
        return held
    if graph.kind == "stream":
        return replace(held, live=4.0, asked=0)
    kept = options.get("KV_CACHE_PRECISION", CACHE[recipe.weights])
    return replace(
        held,
        state=BYTES[kept] / 4,
        fixed=1.0,
        chunk=VariableSession.chunk_tokens,
        together=ANY,
        asked=0,
    )


def open(
    folder: Path,
    graph: Graph,
    recipe: Recipe,
    *,
    threads: int,
    cache: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Session:
    """A compiled model of `threads` threads; with `cache`, a folder, what was compiled is kept there and used again,
    where OpenVINO can do that.

    `options` are OpenVINO's properties that the bundle sets. Raises BundleError for one that it may not set.
    """
    check_options(options or {}, OPTIONS, "openvino")
    with opening(graph.path):
        capabilities = core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    config = properties(recipe, graph, threads, capabilities) | dict(options or {})
    if graph.kind == "decoder":
        return _decoder(folder, graph, config, arithmetic(recipe, graph, capabilities), cache)
    path = folder / graph.path
    with opening(graph.path):
        compiled = _compiled(path, partial(read_model, path), config, partial(ask, graph=graph), cache)
    if graph.kind == "stream":
        engine = OpenVinoStream(graph, compiled)
        return StreamSession(graph, engine.bind, placement(compiled), engine.close)
    plain = OpenVinoSession(graph, compiled)
    return HeldSession(graph, plain) if graph.states else plain


def _compiled(path: Path, read: Callable[[], Any], config: dict[str, Any], ask: Ask, cache: Path | None) -> Any:
    if cache is None:
        return core().compile_model(read(), DEVICE, config)
    compiled = compile_cached(core(), read, path, DEVICE, config, ask, cache)
    give_back(path.parent, cache)
    return compiled


def _decoder(folder: Path, graph: Graph, config: dict[str, Any], precision: str, cache: Path | None) -> Session:
    """Its states are blocks outside the model where that can be, else inside it.

    `precision`: what the engine computes in on this processor.
    """
    path = folder / graph.path
    # What decodes reads all weights for every token.
    with opening(graph.path), large_pages():
        model = stateful(path, graph)
        if pageable(model, graph) and keeps(config["KV_CACHE_PRECISION"], precision):
            page(model, graph)
            session = PagedSession(graph, core().compile_model(model, DEVICE, config | ROUNDED))
            ask_decoder(session)  # which is when the engine packs its weights
            give_back(folder)
            return session
        compiled = _compiled(path, lambda: model, config, lambda made: ask_decoder(VariableSession(graph, made)), cache)
    warn_if_loose(compiled, graph)
    return VariableSession(graph, compiled)


class OpenVinoStream:
    """One compiled recurrent model, which reads and writes its states where the session keeps them."""

    def __init__(self, graph: Graph, compiled: Any) -> None:
        self._graph, self._compiled = graph, compiled

    def bind(self, reads: Arrays, writes: Arrays) -> Callable[[], None]:
        """What runs the graph once on these arrays, which the caller keeps where they are."""
        import openvino

        request = new_request(self._compiled)
        for name, array in (*reads.items(), *writes.items()):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def once() -> None:
            with running(self._graph.path):
                request.infer(share_outputs=True)

        return once

    def close(self) -> None:
        del self._compiled


class OpenVinoSession:
    """One compiled model and as many infer requests as there are runs at once."""

    length_step = 8  # a shape that it has not seen costs milliseconds
    batch_tokens = 256  # as fast as 512, and it holds 53 kB a token of MiniLM

    def __init__(self, graph: Graph, compiled: Any) -> None:
        self._graph, self._compiled = graph, compiled
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._life = Life("this session")
        self.placement = placement(compiled)

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        """Outputs by name. Raises InputError, ResourceError, ClosedError, ForkedSessionError."""
        self._life.check()
        check_feeds(self._graph, feeds)
        with running(self._graph.path), self._request() as request:
            request.infer(dict(feeds), share_inputs=True)
            return {port.name: request.get_tensor(port.name).data.copy() for port in self._graph.outputs}, None

    @contextmanager
    def _request(self) -> Iterator[Any]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = new_request(self._compiled)
        try:
            yield request
        finally:
            self._idle.put(request)

    def close(self) -> None:
        if self._life.end():
            self._idle = queue.LifoQueue()
            del self._compiled
