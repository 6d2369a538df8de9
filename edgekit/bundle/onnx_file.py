"""Check an .onnx file before an engine opens it, without the onnx package.

The device has no onnx package, and `onnx.checker` lets through what an engine then obeys: external data that is a
hard link to somebody else's file, sizes that do not exist, negative offsets. So this file walks the protobuf bytes
itself, with the field numbers of onnx.proto (the same up to IR version 14). `read` says what a file is; `check` says
whether an engine may have it. Knows nothing of what the operators compute.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from edgekit import limits
from edgekit.bundle import safe_files
from edgekit.bundle.onnx_walk import DTYPES as DTYPES
from edgekit.bundle.onnx_walk import External as External
from edgekit.bundle.onnx_walk import Facts as Facts
from edgekit.bundle.onnx_walk import Walk
from edgekit.bundle.protobuf import Reader, WireError
from edgekit.errors import BundleError, DeviceError

# The newest that ONNX Runtime 1.31, the oldest engine that EdgeKit runs on, reads.
IR_VERSION = 13
OPSETS = {"": 26, "ai.onnx.ml": 5, "com.microsoft": 1}

_FUNCTIONS = "pkg.onnxscript."  # operators written as functions inside the file itself
_BUILD_AGAIN = "export the model again, or get the bundle again from where it came from"


def check(root: Path, relative: str, allowed: Collection[str], *, hard_links: bool = False) -> Facts:
    """Refuse an .onnx file that an engine must not see.

    `allowed` are the files of the bundle, relative to `root`: external data may lie in these only. `hard_links` as
    in `files.open_regular`: the digests of those files are known. Raises BundleError, and DeviceError for a file
    that is newer than the engines that this EdgeKit knows.
    """
    facts = read(root, relative)
    _check_versions(facts, relative)
    for domain, kind in (*facts.ops, *facts.functions):
        if kind == "PyOp" or not (domain in OPSETS or f"{domain}.".startswith(_FUNCTIONS)):
            raise _bad(relative, f"EdgeKit does not allow the operator {domain}::{kind}")
    if "ort_config" in facts.metadata:
        raise _bad(relative, "its metadata sets the engine's options (ort_config)")
    furthest: dict[str, External] = {}
    for tensor in facts.external:
        if tensor.location not in furthest or tensor.end > furthest[tensor.location].end:
            furthest[tensor.location] = tensor
    for location, tensor in furthest.items():
        with safe_files.open_regular(root, _beside(relative, location, allowed), hard_links=hard_links) as file:
            available = os.fstat(file.fileno()).st_size
        if tensor.end > available:
            wanted = f"bytes {tensor.offset} to {tensor.end} of {location!r}"
            raise _bad(relative, f"the tensor {tensor.tensor!r} wants {wanted}, which has {available}")
    return facts


def read(root: Path, relative: str) -> Facts:
    """Walk the file once. Raises BundleError for anything that is not valid ONNX within `edgekit.limits`."""
    with safe_files.open_regular(root, relative, hard_links=True) as file:
        reader = Reader(file)
        if reader.all.end > limits.GRAPH_FILE_BYTES:
            raise _bad(relative, f"{reader.all.end} bytes are more than protobuf allows")
        try:
            return Walk(reader).model()
        except WireError as error:
            raise _bad(relative, f"it is not valid ONNX: {error}") from None


def _check_versions(facts: Facts, relative: str) -> None:
    if facts.ir_version > IR_VERSION:
        raise _newer(relative, "ONNX IR version", facts.ir_version, IR_VERSION)
    for domain, newest in OPSETS.items():
        found = facts.opsets.get(domain, 0)
        if found > newest:
            raise _newer(relative, f"opset of {domain or 'ai.onnx'}", found, newest)
    if facts.ir_version < 1 or facts.opsets.get("", 1) < 1:
        raise _bad(relative, "it has no IR version or no opset")


def _beside(relative: str, location: str, allowed: Collection[str]) -> str:
    """What an external location means from the bundle's folder."""
    if "_ORT_MEM_ADDR_" in location:
        raise _bad(relative, "its external data points into the engine's memory")
    safe_files.parts(location)
    name = (PurePosixPath(relative).parent / location).as_posix()
    if name not in allowed:
        raise _bad(relative, f"its external data is in {name!r}, which is not a file of this bundle")
    return name


def _bad(relative: str, why: str) -> BundleError:
    return BundleError(f"{relative}: {why}", hint=_BUILD_AGAIN, file=relative)


def _newer(relative: str, what: str, found: int, newest: int) -> DeviceError:
    return DeviceError(
        f"{relative} needs {what} {found}; the engines of this EdgeKit support up to {newest}",
        hint="update edgekit and onnxruntime, or export the model again",
        file=relative, required=found, found=newest,
    )  # fmt: skip
