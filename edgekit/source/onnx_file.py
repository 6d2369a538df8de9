"""Make a `Source` of a user's ONNX file, or of a torch module.

    states   hn=h0: what the output `hn` of one step gives, the input `h0` of the next one takes
    inputs   sr=16000: the input `sr` always has this value
    shapes   x=1,576: axes of the input `x`, fixed by a number, free by a name

With states the file is a stream, without a network from arrays to arrays. Knows names of ports; what is made of the
graph is `exporters/_onnx_file`'s, and how a module is traced is `exporters/_recurrent/module.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import limits, registry
from edgekit.core import Progress, Source
from edgekit.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgekit.bundle.onnx_file import Facts

FILE = "model.onnx"
Shapes = Mapping[str, Sequence[int | str]]
STREAM_WEIGHTS = ("MatMul", "Gemm", "LSTM", "GRU", "RNN")  # operators with weights that a stream's exporter quantizes
NETWORK_WEIGHTS = ("MatMul", "Gemm", "Conv", "Gather")
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger", "QLinearMatMul", "QLinearConv", "MatMulNBits",
    "MatMulBnb4", "GatherBlockQuantized", "QMoE", "QAttention", "QGemm",
)  # fmt: skip


def resolve(
    model: str,
    path: Path,
    states: Mapping[str, str],
    inputs: Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
) -> Source:
    """An ONNX file with `states` (input -> output), its names checked and its bytes sound.

    Raises UsageError for a name or a value that it cannot have, UnsupportedError for ports that are not tensors,
    BundleError.
    """
    from edgekit.bundle import onnx_file

    folder = path.parent.absolute()
    beside = [entry.name for entry in folder.iterdir() if entry.is_file()]
    facts = onnx_file.check(folder, path.name, beside)
    has = f"its inputs are {', '.join(facts.inputs)}; its outputs {', '.join(facts.outputs)}"
    constants = _constants(inputs or {}, facts.inputs, has)
    _check_names(states, [name for name in facts.inputs if name not in constants], list(facts.outputs), has)
    fixed = _checked_shapes(shapes or {}, [name for name in facts.inputs if name not in constants], has)
    for name, dtype in (*facts.inputs.items(), *facts.outputs.items()):
        if dtype in ("", "object"):
            kind = "strings" if dtype else "no tensor"
            raise UnsupportedError(f"{path.name}: the port {name!r} holds {kind}", hint="EdgeKit takes numbers only")
    config: dict[str, Any] = {"file": path.name, "states": dict(states)}
    config |= {"inputs": constants} if constants else {}
    config |= {"shapes": fixed} if fixed else {}
    config |= {"why_float": why} if (why := _why_float(facts, bool(states))) else {}
    return Source(model, registry.ONNX_FILE if states else registry.ONNX_NETWORK, folder, "", config)


def _constants(inputs: Mapping[str, Any], ports: Mapping[str, str], has: str) -> dict[str, Any]:
    """The values as JSON, each checked to be numbers of its input's dtype. Raises UsageError."""
    return {name: _constant(name, value, ports, has) for name, value in inputs.items()}


def _constant(name: str, value: Any, ports: Mapping[str, str], has: str) -> Any:
    import numpy as np

    if name not in ports:
        raise UsageError(f"--input {name}: there is no input {name!r}", hint=has)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray("")
    dtype = ports[name]
    wanted = {"bfloat16": "float32"}.get(dtype, dtype)
    if array.dtype.kind not in "biuf" or (wanted == "bool") != (array.dtype.kind == "b"):
        raise UsageError(f"--input {name}: {value!r} is not {dtype}", hint=f"{name} is {dtype}: give such numbers")
    if array.size > limits.CONSTANT_ELEMENTS:
        raise UsageError(
            f"--input {name} has {array.size} numbers, and {limits.CONSTANT_ELEMENTS} are allowed",
            hint="store large constants as initializers of the file",
        )
    with np.errstate(all="ignore"):
        kept = array.astype(wanted)
    if np.dtype(wanted).kind in "iu" and not np.array_equal(kept.astype(np.float64), array.astype(np.float64)):
        raise UsageError(f"--input {name}: {value!r} is not {dtype}", hint=f"{name} is {dtype}: give such numbers")
    if not np.isfinite(kept.astype(np.float64)).all():
        raise UsageError(f"--input {name}: {value!r} is not finite as {dtype}", hint="give finite numbers")
    return array.tolist()


def _checked_shapes(shapes: Shapes, inputs: Collection[str], has: str) -> dict[str, list[int | str]]:
    """Raises UsageError."""
    for name, shape in shapes.items():
        if name not in inputs:
            raise UsageError(f"--shape {name}: there is no input {name!r} that is not constant", hint=has)
        if not shape or any(isinstance(axis, int) and not 0 < axis <= limits.TENSOR_DIM for axis in shape):
            raise UsageError(
                f"--shape {name}: {list(shape)} is not a shape",
                hint="write a number above 0, or a name for a free axis: --shape x=batch,576",
            )
    return {name: list(shape) for name, shape in shapes.items()}


def _why_float(facts: Facts, stream: bool) -> str:
    """Why its weights cannot be quantized, from its operators; the empty string if they can be."""
    kinds = {kind for _, kind in facts.ops}
    if found := sorted(kinds & set(QUANTIZED)):
        return f"the file is quantized already ({found[0]})"
    if not kinds & set(STREAM_WEIGHTS if stream else NETWORK_WEIGHTS):
        return f"the file has none of {', '.join(STREAM_WEIGHTS if stream else NETWORK_WEIGHTS)}"
    return ""


def sizes(source: Source) -> dict[str, int]:
    """Bytes of the tensors that lie beside the file, by name, and of the file."""
    from edgekit.bundle import onnx_file

    name = source.config["file"]
    beside = {tensor.tensor: tensor.size for tensor in onnx_file.read(source.folder, name).external}
    return beside | {name: (source.folder / name).stat().st_size}


def traced(module: Any, example: Any, states: Mapping[str, str] | None, folder: Path, say: Progress) -> Source:
    """A torch module as an ONNX file in `folder`, with the proof of what it computes beside it.

    Raises UsageError, UnsupportedError, VerificationError.
    """
    from importlib import import_module

    if not states or example is None:
        raise UsageError(
            "exporting a torch module needs example_inputs and states",
            hint='export(module, "out.ek", example_inputs=(x, h), states={"h": "h_next"}), named as in its forward()',
        )
    trace = import_module("edgekit.exporters._recurrent.module").trace
    trace(module, example, states, folder / FILE, lambda what: say("trace", what))
    return Source(type(module).__name__, registry.ONNX_FILE, folder, "", {"file": FILE, "states": dict(states)})


def _check_names(states: Mapping[str, str], inputs: list[str], outputs: list[str], has: str) -> None:
    for into, out in states.items():
        for name, known, what in ((into, inputs, "input"), (out, outputs, "output")):
            if name not in known:
                raise UsageError(f"the state {out}={into}: there is no {what} {name!r}", hint=has)
    if len(set(states.values())) < len(states):
        raise UsageError("two states name the same output", hint=has)
    rest = [name for name in inputs if name not in states], [name for name in outputs if name not in states.values()]
    for names, what in zip(rest, ("input", "output")):
        if not names:
            raise UnsupportedError(f"the graph has no other {what}", hint=f"one must not be a state; {has}")
