"""What an .onnx file says of itself, in one pass over its protobuf bytes, with the field numbers of onnx.proto.

Refuses what is no sound ONNX within `edgekit.limits`. Knows nothing of what the operators compute.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from edgekit import limits
from edgekit.bundle.protobuf import Reader, Span, WireError, message

_NUMBER = re.compile(r"[0-9]{1,18}")

# TensorProto.DataType: numpy's (and ml_dtypes') name, bits for one element; 0: not of fixed size.
DTYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("object", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8), 18: ("float8_e4m3fnuz", 8), 19: ("float8_e5m2", 8), 20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4), 22: ("int4", 4), 23: ("float4_e2m1fn", 4), 24: ("float8_e8m0fnu", 8), 25: ("uint2", 2),
    26: ("int2", 2), 27: ("float6_e2m3fn", 6), 28: ("float6_e3m2fn", 6),
}  # fmt: skip


@dataclass(frozen=True)
class External:
    """A tensor whose bytes are in another file."""

    tensor: str
    location: str  # relative to the .onnx file's folder
    offset: int  # bytes
    size: int  # bytes, from shape and dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Facts:
    """What an .onnx file says of itself. Subgraphs and functions are counted in."""

    ir_version: int
    opsets: dict[str, int]  # by domain
    ops: dict[tuple[str, str], int]  # (domain, type) -> how many; "ai.onnx" is ""
    depth: int  # of subgraphs; 0: none
    inputs: dict[str, str]  # name -> dtype of the main graph's, without those that have an initializer
    outputs: dict[str, str]  # the dtype is "" for a sequence, a map or an optional
    external: tuple[External, ...]
    functions: tuple[tuple[str, str], ...]
    metadata: tuple[str, ...]  # the keys
    shapes: dict[str, tuple[int | None, ...]]  # of inputs and outputs that state one; None: a free axis
    dequantized: frozenset[str]  # what DequantizeLinear nodes read
    widest: int  # bytes of the largest value between nodes, a row of it: of those whose only free axis is the first

    @property
    def nodes(self) -> int:
        return sum(self.ops.values())


_MODEL = message(ir_version="1 int", graph="7 bytes", opset_import="8 bytes*", metadata_props="14 bytes*",
                 training_info="20 bytes*", functions="25 bytes*")  # fmt: skip
_GRAPH = message(node="1 bytes*", initializer="5 bytes*", input="11 bytes*", output="12 bytes*",
                 value_info="13 bytes*", sparse_initializer="15 bytes*")  # fmt: skip
_FUNCTION = message(name="1 bytes", node="7 bytes*", opset_import="9 bytes*", domain="10 bytes",
                    attribute_proto="11 bytes*")  # fmt: skip
_NODE = message(input="1 bytes*", output="2 bytes*", name="3 bytes", op_type="4 bytes", attribute="5 bytes*",
                domain="7 bytes")  # fmt: skip
_ATTRIBUTE = message(t="5 bytes", g="6 bytes", tensors="10 bytes*", graphs="11 bytes*", sparse_tensor="22 bytes",
                     sparse_tensors="23 bytes*")  # fmt: skip
_TENSOR = message(dims="1 ints*", data_type="2 int", name="8 bytes", raw_data="9 bytes", external_data="13 bytes*",
                  data_location="14 int")  # fmt: skip
_SPARSE = message(values="1 bytes", indices="2 bytes", dims="3 ints*")
_OPSET = message(domain="1 bytes", version="2 int")
_ENTRY = message(key="1 bytes", value="2 bytes")
_VALUE_INFO = message(name="1 bytes", type="2 bytes")
_TYPE = message(tensor_type="1 bytes")
_TENSOR_TYPE = message(elem_type="1 int", shape="2 bytes")
_SHAPE = message(dim="1 bytes*")
_DIM = message(dim_value="1 int", dim_param="2 bytes")


_Node = tuple[list[str], list[str]]  # names of what it reads, and of what it gives


class Walk:
    """One pass over a ModelProto, counting as it goes. Every method reads one kind of message."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.opsets: dict[str, int] = {}
        self.ops: Counter[tuple[str, str]] = Counter()  # of the main graph, or of the function being read
        self.functions: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
        self.external: list[External] = []
        self.dequantized: set[str] = set()
        self.widest = 0
        self.depth = 0
        self.counts: Counter[str] = Counter()
        self.shapes: dict[str, tuple[int | None, ...]] = {}

    def model(self) -> Facts:
        graph: tuple[dict[str, str], dict[str, str]] | None = None
        ir_version, metadata = 0, []
        for name, value, span in self.reader.fields(self.reader.all, _MODEL):
            match name:
                case "ir_version":
                    ir_version = value
                case "graph":
                    graph = self.graph(span, 0)
                case "opset_import":
                    self.opset(span)
                case "metadata_props":
                    metadata.append(self.entry(span)[0])
                case "functions":
                    self.function(span)
                case "training_info":
                    raise WireError("it holds training information, which inference does not use")
        if graph is None:
            raise WireError("it has no graph")
        self.expand()
        for body in self.functions.values():
            self.ops.update(body)
        return Facts(
            ir_version, self.opsets, dict(self.ops), self.depth, *graph, tuple(self.external),
            tuple(self.functions), tuple(metadata), self.shapes, frozenset(self.dequantized), self.widest,
        )  # fmt: skip

    def graph(self, span: Span, depth: int) -> tuple[dict[str, str], dict[str, str]]:
        """The graph's inputs and outputs with their dtypes."""
        if depth > limits.SUBGRAPH_DEPTH:
            raise WireError(f"subgraphs nest deeper than {limits.SUBGRAPH_DEPTH}")
        self.depth = max(self.depth, depth)
        ports: dict[str, dict[str, str]] = {"input": {}, "output": {}}
        initialized, nodes = set[str](), list[_Node]()
        for name, _, inside in self.reader.fields(span, _GRAPH):
            match name:
                case "node":
                    nodes.append(self.node(inside, depth))
                case "initializer":
                    initialized.add(self.tensor(inside))
                case "sparse_initializer":
                    self.sparse(inside)
                case "input" | "output":
                    self.port(inside, ports[name], self.shapes if depth == 0 else {})
                case "value_info":
                    self.between(inside)
        _check_order(nodes, initialized | ports["input"].keys())
        inputs = {name: dtype for name, dtype in ports["input"].items() if name not in initialized}
        return inputs, ports["output"]

    def node(self, span: Span, depth: int) -> _Node:
        self.count("nodes", limits.GRAPH_NODES)
        kind = domain = ""
        inputs, outputs = list[str](), list[str]()
        for name, _, inside in self.reader.fields(span, _NODE):
            match name:
                case "input":
                    inputs.append(self.reader.text(inside))
                case "output":
                    outputs.append(self.reader.text(inside))
                case "name":
                    self.reader.text(inside)
                case "op_type":
                    kind = self.reader.text(inside)
                case "domain":
                    domain = self.reader.text(inside)
                case "attribute":
                    self.attribute(inside, depth)
        self.ops[_plain(domain), kind] += 1
        if kind == "DequantizeLinear" and inputs:
            self.dequantized.add(inputs[0])
        return inputs, outputs

    def attribute(self, span: Span, depth: int) -> None:
        for name, _, inside in self.reader.fields(span, _ATTRIBUTE):
            match name:
                case "t" | "tensors":
                    self.tensor(inside)
                case "g" | "graphs":
                    self.graph(inside, depth + 1)
                case _:
                    self.sparse(inside)

    def function(self, span: Span) -> None:
        self.count("functions", limits.GRAPH_NODES)
        outer, self.ops = self.ops, Counter()
        label = domain = ""
        for name, _, inside in self.reader.fields(span, _FUNCTION):
            match name:
                case "name":
                    label = self.reader.text(inside)
                case "domain":
                    domain = self.reader.text(inside)
                case "node":
                    self.node(inside, 0)
                case "opset_import":
                    self.opset(inside)
                case "attribute_proto":
                    self.attribute(inside, 0)
        key = _plain(domain), label
        self.functions.setdefault(key, Counter()).update(self.ops)  # overloads count as one, together
        self.ops = outer

    def expand(self) -> None:
        """Refuse functions that call themselves, or that grow beyond the limit once an engine inlines them."""
        calls = {key: [op for op in body if op in self.functions] for key, body in self.functions.items()}
        try:
            order = list(TopologicalSorter(calls).static_order())
        except CycleError:
            raise WireError("its functions call themselves") from None
        sizes: dict[tuple[str, str], int] = {}
        for key in order:
            sizes[key] = _expanded(self.functions[key], sizes)
        _expanded(self.ops, sizes)

    def opset(self, span: Span) -> None:
        domain, version = "", 0
        for name, value, inside in self.reader.fields(span, _OPSET):
            if name == "domain":
                domain = self.reader.text(inside)
            else:
                version = value
        self.opsets[_plain(domain)] = max(version, self.opsets.get(_plain(domain), 0))

    def port(self, span: Span, into: dict[str, str], shapes: dict[str, tuple[int | None, ...]]) -> None:
        """Note a port's dtype, and its shape if it states one."""
        label, dtype, shape = "", "", None
        for name, _, inside in self.reader.fields(span, _VALUE_INFO):
            if name == "name":
                label = self.reader.text(inside)
            else:
                for _, _, tensor in self.reader.fields(inside, _TYPE):
                    for field, value, dims in self.reader.fields(tensor, _TENSOR_TYPE):
                        if field == "elem_type":
                            dtype = _dtype(value)[0]
                        else:
                            shape = tuple(self.axis(dim) for _, _, dim in self.reader.fields(dims, _SHAPE))
        if label in into:
            raise WireError(f"two inputs or two outputs have the name {label!r}")
        into[label] = dtype
        if shape is not None:
            shapes[label] = shape

    def between(self, span: Span) -> None:
        """A value between nodes: counts where all of its axes but the first are fixed."""
        bits, dims = 0, list[int | None]()
        for part, _, inside in self.reader.fields(span, _VALUE_INFO):
            if part == "name":
                self.reader.text(inside)
            for _, _, tensor in self.reader.fields(inside, _TYPE) if part == "type" else ():
                for field, value, shape in self.reader.fields(tensor, _TENSOR_TYPE):
                    if field == "elem_type":
                        bits = _dtype(value)[1]
                    else:
                        dims = [self.axis(dim) for _, _, dim in self.reader.fields(shape, _SHAPE)]
        row = [dim for dim in dims[1:] if dim is not None]
        if dims and dims[0] is None and len(row) == len(dims) - 1 < limits.TENSOR_RANK:
            self.widest = max(self.widest, math.prod(row) * bits // 8)

    def axis(self, span: Span) -> int | None:
        """Its length; None for one that is free."""
        return next((value for name, value, _ in self.reader.fields(span, _DIM) if name == "dim_value"), None)

    def tensor(self, span: Span, *, sparse: bool = False) -> str:
        """The tensor's name. Its size must be what its shape says, inside the file or outside."""
        self.count("tensors", limits.GRAPH_TENSORS)
        label, dims, dtype, raw, outside = "", list[int](), 0, None, False
        external: dict[str, str] = {}
        for name, value, inside in self.reader.fields(span, _TENSOR):
            match name:
                case "name":
                    label = self.reader.text(inside)
                case "dims":
                    dims += self.reader.ints(value, inside, limits.TENSOR_RANK)
                case "data_type":
                    dtype = value
                case "raw_data":
                    raw = inside.end - inside.start
                case "external_data":
                    key, text = self.entry(inside)
                    if key in external:
                        raise WireError(f"the tensor {label!r} states its {key} twice")
                    external[key] = text
                case "data_location":
                    outside = value != 0
        elements, bits = _elements(label, dims), _dtype(dtype)[1]
        size = (elements * bits + 7) // 8
        if external or outside:
            if sparse:
                raise WireError("a sparse tensor with external data")
            if raw or not bits:
                raise WireError(f"the tensor {label!r} cannot be external: it is text, or has its bytes here as well")
            self.external.append(_external(label, external, size, tuple(dims)))
        elif (bits and raw is not None and raw != size) or elements > 4 * (span.end - span.start):
            # A tensor that isn't raw stores at least one byte for four elements (two bits each).
            raise WireError(f"the tensor {label!r} has too few or too many bytes for its {elements} elements")
        return label

    def sparse(self, span: Span) -> None:
        dims: list[int] = []
        for name, value, inside in self.reader.fields(span, _SPARSE):
            if name == "dims":
                dims += self.reader.ints(value, inside, limits.TENSOR_RANK)
            else:
                self.tensor(inside, sparse=True)
        if _elements("", dims) > limits.SPARSE_ELEMENTS:
            raise WireError(f"a sparse tensor has more than {limits.SPARSE_ELEMENTS} elements")

    def count(self, what: str, most: int) -> None:
        self.counts[what] += 1
        if self.counts[what] > most:
            raise WireError(f"more than {most} {what}")

    def entry(self, span: Span) -> tuple[str, str]:
        """Key and value; a value too long to be a name is not read."""
        key = text = ""
        for name, _, inside in self.reader.fields(span, _ENTRY):
            if name == "key":
                key = self.reader.text(inside)
            elif inside.end - inside.start <= limits.NAME_BYTES:
                text = self.reader.text(inside)
        return key, text


def _check_order(nodes: list[_Node], known: set[str]) -> None:
    """Refuse a graph of which two nodes give one value, or where a value depends on itself."""
    makers: dict[str, int] = {}
    for number, (_, outputs) in enumerate(nodes):
        for name in filter(None, outputs):
            if name in makers or name in known:
                raise WireError(f"the value {name!r} has two sources")
            makers[name] = number
    if all(makers.get(name, -1) < number for number, (inputs, _) in enumerate(nodes) for name in inputs):
        return
    before = {number: {makers[name] for name in inputs if name in makers} for number, (inputs, _) in enumerate(nodes)}
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        name = next(filter(None, nodes[error.args[1][0]][1]))
        raise WireError(f"the value {name!r} depends on itself") from None


def _expanded(ops: Counter[tuple[str, str]], sizes: Mapping[tuple[str, str], int]) -> int:
    size = sum(count * sizes.get(op, 1) for op, count in ops.items())
    if size > limits.GRAPH_NODES:
        raise WireError(f"more than {limits.GRAPH_NODES} nodes once its functions are expanded")
    return size


def _external(label: str, entries: Mapping[str, str], size: int, shape: tuple[int, ...]) -> External:
    numbers = {}
    for key in entries.keys() - {"location"}:
        if key not in ("offset", "length", "checksum"):
            raise WireError(f"the tensor {label!r} has an unknown key {key!r} in its external data")
        if key != "checksum":
            if not _NUMBER.fullmatch(entries[key]):
                raise WireError(f"the tensor {label!r} has the {key} {entries[key]!r}")
            numbers[key] = int(entries[key])
    if numbers.get("length", size) != size:
        raise WireError(f"the tensor {label!r} has the length {numbers['length']}; its shape needs {size} bytes")
    return External(label, entries.get("location", ""), numbers.get("offset", 0), size, shape)


def _elements(label: str, dims: list[int]) -> int:
    if len(dims) > limits.TENSOR_RANK or any(dim > limits.TENSOR_DIM for dim in dims):
        raise WireError(f"the tensor {label!r} has the shape {dims[:4]}…")
    return math.prod(dims)


def _dtype(number: int) -> tuple[str, int]:
    if number not in DTYPES:
        raise WireError(f"unknown data type {number}")
    return DTYPES[number]


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
