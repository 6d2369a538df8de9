"""The CPU through ONNX Runtime.

int8 computes in int8: activations are quantized as they come (one scale a tensor), multiplied with int8 weights by
ONNX Runtime's integer kernels, and brought back to float32 with one scale a channel.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import device
from edgekit.core import Availability, Graph, Recipe, Session

from ._onnxruntime import OnnxRuntimeSession

if TYPE_CHECKING:
    import onnx_ir as ir

PRECISIONS = ("fp32", "int8")
PROVIDER = "CPUExecutionProvider"
# Instructions that multiply unsigned by signed bytes into 32 bits.
INTEGER = {"avx512_vnni", "avx_vnni", "asimddp"}
# Its CPU kernel adds and normalizes one number at a time; the two nodes that it replaces are vectorized.
SLOW_FUSIONS = ("SkipLayerNormFusion",)


def probe() -> Availability:
    """Whether ONNX Runtime is installed; nothing is imported."""
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return Availability("cpu", True, "ONNX Runtime", version(package))
        except PackageNotFoundError:
            continue
    return Availability("cpu", False, "ONNX Runtime", "", "onnxruntime is not installed", "pip install onnxruntime")


def compile(model: ir.Model, recipe: Recipe) -> ir.Model:
    """The portable graph in the form that ONNX Runtime runs fastest; in place."""
    if recipe.activations == "int8":
        from ._integer import integer_matmuls

        integer_matmuls(model)
    return model


def open(folder: Path, graph: Graph, recipe: Recipe, *, threads: int, cache: Path | None = None) -> Session:
    """A session of `threads` threads that do not spin once a run has ended."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if recipe.activations == "int8" and not device.cpu_features() & INTEGER:
        # Without these the kernels saturate at 16 bits and give other numbers, unless told to take the slow way.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return OnnxRuntimeSession(folder, graph, PROVIDER, options, without=SLOW_FUSIONS)


def facts(recipe: Recipe) -> dict[str, Any]:
    """What a report says of the engine."""
    return {"engine": "ONNX Runtime", "version": probe().version, "provider": PROVIDER}
