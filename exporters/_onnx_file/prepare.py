"""Load a user's ONNX file in the form that the rest needs: constant inputs, fixed axes, float32, opset 21 or newer.

What is constant is folded, and a branch that nothing but constants choose takes the place of its If. Runs in a worker:
onnx's version converter can crash on a hostile file. Knows no stream and no task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core import Graph, Port
from edgekit.errors import BundleError, UnsupportedError, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Say, Source

OPSET = 21  # the first with weights in blocks
HALVES = (10, 16)  # float16 and bfloat16, as `to` and `dtype` have them
DTYPE_ATTRIBUTES = ("to", "dtype")
FOLDED = 1 << 26  # elements of a constant, at most


def prepared(source: Source, say: Say) -> ir.Model:
    """The file of `source` with its constants and shapes. Raises BundleError, UnsupportedError, UsageError."""
    constants, shapes = source.config.get("inputs") or {}, source.config.get("shapes") or {}
    model = load(source)
    set_constants(model, constants)
    set_shapes(model, shapes)
    widen(model)
    opset = model.graph.opset_imports.get("", 1)
    if constants or shapes or opset < OPSET or len(model.functions) or _branches(model):
        say("folding constants")
        with _tool("its constants cannot be folded"):
            _fold(model)
    if opset < OPSET:
        say(f"raising the opset from {opset} to {OPSET}")
        with _tool(f"its opset {opset} cannot be raised to {OPSET}"):
            _raise_opset(model)
    return model


def described(model: ir.Model, path: str) -> Graph:
    """The Graph noun of a model in the file `path`. Raises UnsupportedError for a port that is not a tensor."""
    return Graph("model", path, tuple(map(_port, model.graph.inputs)), tuple(map(_port, model.graph.outputs)))


def _port(value: ir.Value) -> Port:
    if value.dtype is None or value.shape is None:
        raise UnsupportedError(
            f"{value.name!r} is not a tensor of known dtype and rank",
            hint="onnx.shape_inference.infer_shapes may find the rank; sequences and maps are not supported",
        )
    shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return Port(str(value.name), value.dtype.numpy().name, shape)


def load(source: Source) -> ir.Model:
    """The file as it is, nodes in order, every free axis named. Raises BundleError naming the file."""
    import onnx_ir as ir

    name = source.config["file"]
    try:
        model = ir.load(source.folder / name)
        _refuse_duplicates(model)
        model.graph.sort()
    except (ir.serde.SerdeError, ValueError) as error:
        first = str(_deepest(error)).strip().partition("\n")[0]
        raise BundleError(
            f"{name}: the graph is not valid ONNX: {first}",
            hint="check it with onnx.checker.check_model, and export the file again",
            cause=str(error),
            file=name,
        ) from error
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(
                [a if isinstance(a, int) else str(a.value or f"{value.name}.{n}") for n, a in enumerate(value.shape)]
            )
    return model


def _deepest(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _deepest(error.__cause__)


def _refuse_duplicates(model: ir.Model) -> None:
    seen: set[str] = set()
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.name and value.name in seen:
            raise ValueError(f"two values have the name {value.name!r}")
        seen.add(str(value.name))


def set_constants(model: ir.Model, constants: Mapping[str, Any]) -> None:
    """Each named input becomes an initializer with that value. Raises UsageError for a shape that it cannot have."""
    import onnx_ir as ir

    for name, value in constants.items():
        port = next(port for port in model.graph.inputs if port.name == name)
        if port.dtype is None or port.shape is None:
            raise UnsupportedError(f"the input {name!r} has no dtype and shape", hint="run onnx.shape_inference on it")
        array = np.asarray(value).astype(port.dtype.numpy())
        shape = tuple(port.shape)
        if array.size == 1 and all(axis == 1 or not isinstance(axis, int) for axis in shape):
            array = array.reshape((1,) * len(shape))
        fits = array.ndim == len(shape) and all(
            not isinstance(axis, int) or axis == length for axis, length in zip(shape, array.shape)
        )
        if not fits:
            raise UsageError(
                f"the constant input {name!r} has the shape {list(array.shape)}, and the file wants {port.shape}",
                hint="write nested lists in the shape of the input: --input 'scale=[1, 1, 2]'",
            )
        model.graph.inputs.remove(port)
        port.const_value, port.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
        model.graph.register_initializer(port)


def set_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Each named input gets that shape: a number fixes an axis, a name leaves it free. Raises UsageError."""
    import onnx_ir as ir

    for name, shape in shapes.items():
        port = next(port for port in model.graph.inputs if port.name == name)
        own = [] if port.shape is None else list(port.shape)
        fits = port.shape is None or len(own) == len(shape)
        if not fits or any(isinstance(a, int) and a != b for a, b in zip(own, shape)):
            raise UsageError(
                f"the input {name!r} cannot have the shape {list(shape)}: the file says {port.shape}",
                hint="a fixed axis keeps its length; give a number or a name for each axis",
            )
        port.shape = ir.Shape(shape)


def widen(model: ir.Model) -> bool:
    """float16 and bfloat16 become float32 everywhere, in place; returns whether there were any.

    A CPU has no half floats to compute in: an engine would round after each operator, or not, as it likes.
    """
    import onnx_ir as ir

    halves = {ir.DataType(number) for number in HALVES}
    changed = False
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
            if value.dtype in halves:
                value.dtype, changed = ir.DataType.FLOAT, True
            tensor = value.const_value
            if tensor is not None and tensor.dtype in halves:
                value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in halves:
                array = attribute.as_tensor().numpy().astype(np.float32)
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
                changed = True
            elif name in DTYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.as_int() in HALVES:
                node.attributes[name] = ir.AttrInt64(name, 1)
                changed = True
    return changed


def _branches(model: ir.Model) -> bool:
    return any(node.op_type == "If" for node in model.graph.all_nodes())


def _fold(model: ir.Model) -> None:
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.optimize(model, num_iterations=2, input_size_limit=FOLDED, output_size_limit=FOLDED)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _raise_opset(model: ir.Model) -> None:
    from onnxscript import version_converter

    version_converter.convert_version(model, OPSET, fallback=True)
    reached = model.graph.opset_imports.get("", 1)
    if reached < OPSET:
        raise UnsupportedError(
            f"onnx's version converter cannot raise the file from opset {reached} to {OPSET}",
            hint=f"export it again with opset {OPSET} or newer",
        )


@contextmanager
def _tool(what: str) -> Iterator[None]:
    """What onnx and onnxscript raise on graphs that they do not expect, which may be anything, as ours."""
    try:
        yield
    except (BundleError, UnsupportedError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedError(
            f"the graph cannot be prepared: {what}",
            hint=f"export it again with opset {OPSET} or newer, without If nodes",
            cause=str(error),
        ) from error


def beside(folder: Path, model: ir.Model, name: str) -> Path:
    """Write the model into `folder`, its weights in a file beside it."""
    import onnx_ir as ir

    ir.save(model, folder / name, external_data=f"{name}.data")
    return folder / name
