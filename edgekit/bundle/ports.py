"""Check that a graph's ports are those of its .onnx file, and those that its kind needs.

What sessions and loops rely on is here, so that a bad manifest is refused before an engine is asked. Knows no engine.
"""

from __future__ import annotations

from edgekit.bundle.onnx_file import Facts
from edgekit.core import Graph, Port
from edgekit.errors import BundleError

_HINT = "copy or download the bundle again, or export the model again"


def check(graph: Graph, facts: Facts) -> None:
    """Raise BundleError for a port that the file has otherwise, or that two states share."""
    for ports, stated in ((graph.inputs, facts.inputs), (graph.outputs, facts.outputs)):
        dtypes = {port.name: port.dtype for port in ports}
        if dtypes != stated or len(dtypes) != len(ports):
            raise BundleError(
                f"{graph.path} has the ports {stated}, and the manifest says {dtypes}",
                hint=_HINT, file=graph.path, expected=dtypes, actual=stated,
            )  # fmt: skip
        for port in ports:
            fixed = tuple(axis if isinstance(axis, int) else None for axis in port.shape)
            if fixed != facts.shapes.get(port.name):
                raise _wrong(graph, port, f"has the shape {facts.shapes.get(port.name)} in the file")
    ends = [state.out for state in graph.states if state.out is not None]
    if len({state.into for state in graph.states}) < len(graph.states) or len(set(ends)) < len(ends):
        raise BundleError(f"{graph.path}: two states share a port", hint=_HINT, file=graph.path)


def check_kind(graph: Graph) -> None:
    """Raise BundleError for a decoder that cannot be run as one. Its form for prompts has ports of its own."""
    if graph.kind != "decoder":
        return
    ports = {port.name: port for port in (*graph.inputs, *graph.outputs)}
    for name in ("input_ids", "logits"):
        if name not in ports:
            raise BundleError(f"{graph.path} is a decoder without a port {name!r}", hint=_HINT, file=graph.path)
    logits = ports["logits"]
    if len(logits.shape) != 3 or not isinstance(logits.shape[2], int):
        raise _wrong(graph, logits, "needs three axes, the last of the vocabulary's size")
    for state in graph.states:
        port = ports[state.into]
        grows = state.axis is not None
        if grows and (len(port.shape) != 4 or state.axis != 2 or not _fixed(port, (1, 3))):
            raise _wrong(graph, port, "is no cache (batch, heads, tokens, width) that grows along its third axis")
        if not grows and not _fixed(port, range(1, len(port.shape))):
            raise _wrong(graph, port, "is a state whose size is not fixed")


def _fixed(port: Port, axes: tuple[int, ...] | range) -> bool:
    return all(isinstance(port.shape[axis], int) for axis in axes)


def _wrong(graph: Graph, port: Port, why: str) -> BundleError:
    return BundleError(f"{graph.path}: the port {port.name!r} {list(port.shape)} {why}", hint=_HINT, file=graph.path)
