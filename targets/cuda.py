"""NVIDIA GPUs through ONNX Runtime's CUDA provider. A graph runs there whole or not at all."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Availability, Graph, Recipe, Session, check_options
from edgekit.errors import DeviceError, UnsupportedError

from ._decoder_graph import is_decoder
from ._onnxruntime import OnnxRuntimeSession

if TYPE_CHECKING:
    import onnx_ir as ir

PRECISIONS = ("fp32", "int8")
PROVIDER = "CUDAExecutionProvider"
# What a bundle may set, with the provider's names.
OPTIONS: dict[str, tuple[str, ...] | range] = {
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
    "cudnn_conv_algo_search": ("DEFAULT", "EXHAUSTIVE", "HEURISTIC"),
    "gpu_mem_limit": range(1, 2**48),
}


def probe() -> Availability:
    """Whether there is a driver with a GPU and an ONNX Runtime built for it; imports no engine."""
    engine = "ONNX Runtime CUDA"
    try:
        installed = version("onnxruntime-gpu")
    except PackageNotFoundError:
        hint = "pip uninstall onnxruntime, then pip install 'edgekit[cuda]'"
        return Availability("cuda", False, engine, "", "onnxruntime-gpu is not installed", hint)
    if _devices() == 0:
        why, hint = "the NVIDIA driver reports no GPU", "install the driver; `nvidia-smi` must list a GPU"
        return Availability("cuda", False, engine, installed, why, hint)
    return Availability("cuda", True, engine, installed)


def compile(model: ir.Model, recipe: Recipe) -> ir.Model:
    """The portable graph: int8 weights are unpacked by the GPU as it runs, and it computes in float32.

    Raises UnsupportedError for a decoder: its cache would have to stay on the device.
    """
    if is_decoder(model):
        raise UnsupportedError("language models do not run on cuda yet", hint="export for cpu or openvino")
    return model


def facts(recipe: Recipe) -> dict[str, Any]:
    """What a report says of the engine."""
    return {"engine": "ONNX Runtime", "version": probe().version, "provider": PROVIDER}


def open(
    folder: Path,
    graph: Graph,
    recipe: Recipe,
    *,
    threads: int,
    cache: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Session:
    """A session whose every node runs on the GPU, in float32 without TF32.

    `options` are the provider's that the bundle sets. Raises BundleError for one that it may not set, DeviceError
    where there is no GPU.
    """
    import onnxruntime as ort

    check_options(options or {}, OPTIONS, "cuda")
    found = probe()
    if PROVIDER not in ort.get_available_providers():
        raise DeviceError("this ONNX Runtime was built without CUDA", hint=found.hint or "see `edgekit doctor`")
    config = ort.SessionOptions()
    config.intra_op_num_threads = threads
    config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return OnnxRuntimeSession(folder, graph, PROVIDER, config, {"use_tf32": "0", **(options or {})})


def _devices() -> int:
    """GPUs that the driver reports: cuInit and cuDeviceGetCount of libcuda; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
