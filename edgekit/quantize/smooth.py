"""Move outlier channels of normalized activations into the weights before these are quantized.

One int8 scale for a whole tensor leaves little for most channels where a few are large, as they are behind a
LayerNormalization. Dividing channel j by s_j = max|x_j|^a / max|w_j|^(1-a), and multiplying the weights' row j by it,
changes nothing in floating point and evens both sides out (SmoothQuant, arXiv:2211.10438). Behind a GELU it was seen to
do harm, so only normalized inputs are smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.workbench import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Arrays

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
STRENGTH = 0.65  # a: of 0.4, 0.5 and 0.65 the best for all-MiniLM-L6-v2


def sources(model: ir.Model) -> dict[str, list[ir.Node]]:
    """The normalized values that MatMuls with weights read, by name, each with these MatMuls in order."""
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type != "MatMul" or graph.weight(node.inputs[1]) is None:
            continue
        source = node.inputs[0]
        norm = source.producer() if source is not None else None
        if source is not None and source.name is not None and norm is not None and norm.op_type in NORMS:
            found.setdefault(source.name, []).append(node)
    return found


def widen(largest: dict[str, Array], outputs: Arrays) -> None:
    """Take the outputs of a run into the `largest` magnitude of each channel (last axis) of each value."""
    import numpy as np

    for name, array in outputs.items():
        peaks = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0)
        largest[name] = np.maximum(largest[name], peaks) if name in largest else peaks


def smooth(model: ir.Model, largest: Mapping[str, Array]) -> None:
    """Even out each of `sources` with its channels' largest magnitudes; in place."""
    import numpy as np
    import onnx_ir as ir

    for name, readers in sources(model).items():
        weights = [_array(reader) for reader in readers]
        factors = _factors(largest[name], np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0))
        inverse = graph.initializer(model, f"{name}.smoothing", (1 / factors).astype(np.float32))
        even = ir.node("Mul", [readers[0].inputs[0], inverse], name=f"{name}.smooth")
        even.outputs[0].name = f"{name}.smoothed"
        model.graph.insert_before(readers[0], even)
        for reader, weight in zip(readers, weights):
            old = reader.inputs[1]
            assert old is not None
            scaled = graph.initializer(model, f"{old.name}.smoothed", weight * factors[:, None])
            reader.replace_input_with(0, even.outputs[0])
            reader.replace_input_with(1, scaled)
    graph.drop_unused(model)


def _array(node: ir.Node) -> Array:
    weight = graph.weight(node.inputs[1])
    assert weight is not None
    assert weight.const_value is not None
    array: Array = weight.const_value.numpy()
    return array


def _factors(activations: Array, weights: Array) -> Array:
    """s of the formula above, with a geometric mean of 1; bounded, so that a dead channel does no harm."""
    import numpy as np

    factors = np.maximum(activations, 1e-5) ** STRENGTH / np.maximum(weights, 1e-5) ** (1 - STRENGTH)
    factors /= np.exp(np.log(factors).mean())
    bounded: Array = np.clip(factors, 1e-3, 1e3).astype(np.float32)
    return bounded
