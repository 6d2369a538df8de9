"""Target cuda: ONNX Runtime's CUDA provider on an NVIDIA GPU. A graph runs there whole or not at all.

Encoders compute in float32. Decoders compute in 16 bits, which is all that the provider's GroupQueryAttention takes:
fp16 and bf16 hold everything so; with int8 and int4 weights they compute in float16.
"""

from __future__ import annotations

import ctypes
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import distribution
from edgekit.core import Availability, Graph, Recipe, check_options
from edgekit.errors import DeviceError, EdgeKitError, UnsupportedError
from edgekit.session import Session

from ._cuda.decoder import CudaDecoderSession
from ._cuda.driver import driver
from ._cuda.memory import CudaMemory
from ._ort.engine import onnxruntime
from ._ort.session import OnnxRuntimeSession
from ._states.held_session import HeldSession
from ._states.stream_session import StreamSession

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("edgekit")
PRECISIONS = ("fp32", "int8")
DECODER_PRECISIONS = ("bf16", "fp16", "int8", "int4")
COMPUTES = {"bf16": "bf16", "fp16": "fp16", "int8": "fp16", "int4": "fp16"}  # decoders, by how weights are held
AMPERE = (8, 0)  # the first compute capability with bfloat16
PROVIDER = "CUDAExecutionProvider"
DEV, DEVICES = Path("/dev"), ("nvidia[0-9]*", "nvhost-gpu", "dxg")
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
        if not _sees_gpu():
            return Availability("cuda", False, engine, "", "no NVIDIA GPU here", "use another target")
        hint = f"pip uninstall onnxruntime, then {distribution.install('cuda')}"
        return Availability("cuda", False, engine, "", "onnxruntime-gpu is not installed", hint)
    if _devices() == 0:
        if not _sees_gpu():
            return Availability("cuda", False, engine, installed, "no NVIDIA GPU here", "use another target")
        why, hint = "the NVIDIA driver reports no GPU", "install the driver; `nvidia-smi` must list a GPU"
        return Availability("cuda", False, engine, installed, why, hint)
    return Availability("cuda", True, engine, installed)


def compile(model: ir.Model, recipe: Recipe, options: Mapping[str, str] | None = None, *, kind: str) -> ir.Model:
    """An encoder stays as it is: int8 weights are unpacked by the GPU as it runs, and it computes in float32.

    A decoder shares its caches, multiplies with blocks of int8 and int4 as they are, and computes in 16 bits; in place.
    Raises UnsupportedError for one in float32, and for one whose attention is wired in another way.
    """
    if kind != "decoder":
        return model
    import onnx_ir as ir

    from ._cuda.half import halve
    from ._cuda.nbits import block_products
    from ._ort.passes.decoder_graph import group_queries

    if fixed := [value.name for value in model.graph.inputs if str(value.name).startswith(("past_conv.", "past_ssm."))]:
        raise UnsupportedError(
            f"cuda does not keep states like {fixed[0]}, of a fixed size", hint="export it for cpu or openvino"
        )
    if recipe.weights not in COMPUTES:
        hint = f"export it in {', '.join(DECODER_PRECISIONS)}, or for another target"
        raise UnsupportedError(f"cuda does not compute language models in {recipe.weights}", hint=hint)
    group_queries(model)
    block_products(model)
    halve(model, ir.DataType.BFLOAT16 if COMPUTES[recipe.weights] == "bf16" else ir.DataType.FLOAT16)
    return model


def facts(recipe: Recipe, graph: Graph) -> dict[str, Any]:
    """What a report says of the engine."""
    computes = COMPUTES[recipe.weights] if graph.kind == "decoder" else "fp32"
    return {"engine": "ONNX Runtime", "version": probe().version, "provider": PROVIDER, "computes": computes}


def open(
    folder: Path,
    graph: Graph,
    recipe: Recipe,
    *,
    threads: int,
    cache: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Session:
    """A session whose every node runs on the GPU, without TF32.

    `options` are the provider's that the bundle sets. Raises BundleError for one that it may not set, DeviceError
    where there is no GPU, or one that does not compute in this precision.
    """
    check_options(options or {}, OPTIONS, "cuda")
    found, ort = probe(), onnxruntime()
    if PROVIDER not in ort.get_available_providers():
        raise DeviceError("this ONNX Runtime was built without CUDA", hint=found.hint or "see `edgekit doctor`")
    _load_libraries(ort)
    config = ort.SessionOptions()
    config.intra_op_num_threads = threads
    config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    engine = {"use_tf32": "0", **(options or {})}
    with placement_errors(graph):
        if graph.kind != "decoder":
            plain = OnnxRuntimeSession(folder, graph, PROVIDER, config, engine)
            if graph.kind == "stream":
                return StreamSession(graph, plain.bind, plain.placement, plain.close)
            return HeldSession(graph, plain) if graph.states else plain
        check_capability(recipe, driver(0).capability())
        return CudaDecoderSession(folder, graph, PROVIDER, config, engine, memory=CudaMemory(0))


def check_capability(recipe: Recipe, found: tuple[int, int]) -> None:
    """Raises DeviceError for a GPU of that compute capability if it cannot compute what the recipe says."""
    if COMPUTES.get(recipe.weights) == "bf16" and found < AMPERE:
        raise DeviceError(
            f"this GPU has compute capability {found[0]}.{found[1]}, and bf16 needs {AMPERE[0]}.{AMPERE[1]}",
            hint="export the model in fp16",
        )


@contextmanager
def placement_errors(graph: Graph) -> Iterator[None]:
    """ONNX Runtime's refusal to put a node on the CPU as what it means to a user."""
    try:
        yield
    except EdgeKitError as error:
        if "CPU EP" not in error.cause:
            raise
        raise DeviceError(
            f"{graph.path} does not run whole on the GPU",
            hint="see `edgekit doctor`: CUDA and cuDNN must be there; else export it again with this version",
            cause=error.cause,
        ) from error


def _load_libraries(ort: Any) -> None:
    """Those of CUDA and cuDNN that came as Python packages, where the linker does not look."""
    said = io.StringIO()
    with redirect_stdout(said):  # it prints what it does not find, which may well be elsewhere
        ort.preload_dlls(msvc=False)
    log.debug("loading CUDA: %s", said.getvalue().strip() or "nothing is missing")


def _sees_gpu() -> bool:
    """Whether the system has the device file of a GPU: a driver's, a Jetson's, or WSL's. Costs no library."""
    return any(found for pattern in DEVICES for found in DEV.glob(pattern))


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
