"""Decoders in the cuda target's form, run where there is no GPU: by ONNX Runtime's CPU kernels for float16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import graph, registry
from edgekit.core import Graph, Recipe

CUDA = registry.find("targets", "cuda")
RECIPES = {
    "fp16": Recipe("fp16", "fp16"),
    "bf16": Recipe("bf16", "bf16"),
    "int8": Recipe("int8", "int8", 32, "rtn"),
    "int4": Recipe("int4", "int8", 32, "rtn"),
}


def compiled(folder: Path, portable: Graph, precision: str) -> Graph:
    """The noun of the graph in cuda's form, `model.onnx` in a folder of its own."""
    model = CUDA.compile(graph.load(folder / portable.path), RECIPES[precision])
    home = folder / precision
    home.mkdir()
    graph.pack({"model.onnx": model}, home)
    return replace(graph.describe(model, "model", f"{precision}/model.onnx", {}), states=portable.states)


def on_cpu(folder: Path, noun: Graph, memory: Any = None) -> Any:
    """The session that the GPU would have, but for the provider."""
    import onnxruntime as ort

    from edgekit.targets._cuda_decoder import CudaDecoderSession  # type: ignore[import-not-found]

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return CudaDecoderSession(folder, noun, "CPUExecutionProvider", options, memory=memory)
