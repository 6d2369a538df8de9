"""Sizes of a variant from the bundle's files: bytes on disk, and bytes read per token.

Reads .onnx files without the onnx package and opens no engine.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.bundle import onnx_file, safe_files
from edgekit.bundle.onnx_file import External
from edgekit.bundle.protobuf import Reader, Span, message
from edgekit.core import Bundle, Graph, Variant
from edgekit.forecast import states

# Operators that read rows of a table, and not the whole of it, for one token: (type) -> the inputs that are tables.
LOOKUPS = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3), "RotaryEmbedding": (1, 2), "GroupQueryAttention": (7, 8)}

_MODEL = message(graph="7 bytes")
_GRAPH = message(node="1 bytes*")
_NODE = message(input="1 bytes*", op_type="4 bytes")


def weights(bundle: Bundle, variant: Variant) -> int:
    """Bytes on disk of the variant's graphs and of the tensors that lie beside them, each place once."""
    paths = [path for graph in variant.graphs for path in graph.files]
    places = {_place(tensor): tensor.size for path in paths for tensor in onnx_file.read(bundle.folder, path).external}
    return sum((bundle.folder / path).stat().st_size for path in paths) + sum(places.values())


def token(bundle: Bundle, variant: Variant, tokens: int) -> int:
    """Bytes that a language model reads for one token when it holds `tokens`: all weights that are multiplied by, and
    the state. A table of which only a row is looked up does not count, unless it is the output head as well."""
    graph = next(graph for graph in variant.graphs if graph.kind == "decoder")
    used = set(_used(bundle, graph))
    tensors = onnx_file.read(bundle.folder, graph.path).external
    weights = {_place(one): one.size for one in tensors if one.tensor in used}
    return states(graph, 1, tokens, fixed=1.0) + sum(weights.values())


def _used(bundle: Bundle, graph: Graph) -> Iterator[str]:
    """The names of what the nodes of a graph take whole. An output head that shares the table's bytes has them under a
    name of its own, or takes the table itself."""
    with safe_files.open_regular(bundle.folder, graph.path, hard_links=True) as file:
        reader = Reader(file)
        for _, _, inside in reader.fields(reader.all, _MODEL):
            for _, _, node in reader.fields(inside, _GRAPH):
                kind, names = _node(reader, node)
                tables = LOOKUPS.get(kind, ())
                yield from (name for place, name in enumerate(names) if place not in tables)


def _node(reader: Reader, span: Span) -> tuple[str, list[str]]:
    kind, names = "", list[str]()
    for name, _, inside in reader.fields(span, _NODE):
        if name == "op_type":
            kind = reader.text(inside)
        else:
            names.append(reader.text(inside))
    return kind, names


def _place(tensor: External) -> tuple[str, int]:
    return tensor.location, tensor.offset
