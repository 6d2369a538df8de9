"""The few calls of NVIDIA's management library that a benchmark needs: energy and memory of a GPU.

https://docs.nvidia.com/deploy/nvml-api/, by ctypes: no package is needed for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

NVML = "libnvidia-ml.so.1"
MOST = 256  # processes on one GPU
UNKNOWN = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, of version 2 on."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("usedGpuMemory", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    )


def gpu_millijoules(library: str = NVML, index: int = 0) -> int:
    """nvmlDeviceGetTotalEnergyConsumption. Raises OSError with NVML's own words, where it is not there too."""
    with _opened(library) as nvml:
        handle, found = ctypes.c_void_p(), ctypes.c_ulonglong()
        _check(nvml, nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
        _check(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found)))
        return found.value


def gpu_memory(pid: int, library: str = NVML) -> int:
    """Bytes that a process holds on all GPUs, by nvmlDeviceGetComputeRunningProcesses. Raises OSError with NVML's own
    words, and where it does not name the process: from a container it may know it by another number."""
    with _opened(library) as nvml:
        count = ctypes.c_uint()
        _check(nvml, nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        held = [used for index in range(count.value) for number, used in _processes(nvml, index) if number == pid]
    if not held or UNKNOWN in held:
        raise OSError("NVML does not say what this process holds")
    return sum(held)


def _processes(nvml: ctypes.CDLL, index: int) -> Iterator[tuple[int, int]]:
    handle, found, count = ctypes.c_void_p(), (_Process * MOST)(), ctypes.c_uint(MOST)
    _check(nvml, nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
    _check(nvml, nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), found))
    yield from ((one.pid, one.usedGpuMemory) for one in found[: count.value])


@contextmanager
def _opened(library: str) -> Iterator[ctypes.CDLL]:
    nvml = ctypes.CDLL(library)
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    _check(nvml, nvml.nvmlInit_v2())
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _check(nvml: ctypes.CDLL, code: int) -> None:
    if code:
        raise OSError(f"NVML: {nvml.nvmlErrorString(ctypes.c_int(code)).decode()}")
