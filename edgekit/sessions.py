"""The sessions of a variant by graph name: each is opened on first use, all are closed together.

    sessions = Sessions(bundle, variant, threads=2)
    outputs, _ = sessions["model"].run(feeds)

Knows no engine: the variant's target opens a graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgekit import registry
from edgekit.cache import compile_cache
from edgekit.errors import ClosedError
from edgekit.machine.shortage import resource_error

if TYPE_CHECKING:
    from edgekit.core import Bundle, Graph, Variant
    from edgekit.session import Session


class Sessions(Mapping[str, "Session"]):
    """The open graphs of one variant. Threads may share it."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int) -> None:
        self._bundle, self._variant, self._threads = bundle, variant, threads
        self._graphs = {graph.name: graph for graph in variant.graphs}
        self._locks = {name: threading.Lock() for name in self._graphs}
        self._open: dict[str, Session] = {}
        self._closed = False

    def __getitem__(self, name: str) -> Session:
        """The session of that graph, opened now if it is not. Raises ClosedError, DeviceError, ResourceError."""
        if (session := self._open.get(name)) is not None:
            return session
        with self._locks[name]:
            if name not in self._open and not self._closed:
                self._open[name] = self._opened(self._graphs[name])
            if self._closed:  # perhaps only since it began to open
                if (late := self._open.get(name)) is not None:
                    late.close()
                raise ClosedError(f"{self._bundle.name} is closed", hint="load the bundle again")
            return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._graphs)

    def __len__(self) -> int:
        return len(self._graphs)

    def release(self, name: str) -> None:
        """Close one graph and free its memory; it is opened again when it is asked for."""
        with self._locks[name]:
            session = self._open.pop(name, None)
            if session is not None:
                session.close()

    def close(self) -> None:
        """Close every graph, the last opened first; twice is once. A session in use raises ClosedError from then on."""
        self._closed = True
        for session in reversed(list(self._open.values())):
            session.close()

    @property
    def placement(self) -> str:
        """What runs the open graphs, as the engine says: "CPUExecutionProvider", "CPU"."""
        return ", ".join(dict.fromkeys(session.placement for session in self._open.values()))

    def _opened(self, graph: Graph) -> Session:
        bundle, variant = self._bundle, self._variant
        target = registry.find("targets", variant.target)
        try:
            session: Session = target.open(
                bundle.folder,
                graph,
                variant.recipe.of(graph.name),
                threads=self._threads,
                cache=compile_cache.folder(bundle, variant, graph),
                options=variant.options,
            )
        except (OSError, MemoryError) as error:  # of a file or an array around the engine
            if resource := resource_error(error, f"{graph.path} cannot be opened"):
                raise resource from error
            raise
        return session
