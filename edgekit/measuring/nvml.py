"""The little of NVIDIA's management library that a benchmark asks: what a GPU has used since its driver was loaded.

https://docs.nvidia.com/deploy/nvml-api/, by ctypes: no package is needed for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

NVML = "libnvidia-ml.so.1"


def gpu_millijoules(library: str = NVML, index: int = 0) -> int:
    """nvmlDeviceGetTotalEnergyConsumption. Raises OSError with NVML's own words, where it is not there too."""
    with _opened(library) as nvml:
        handle, found = ctypes.c_void_p(), ctypes.c_ulonglong()
        _check(nvml, nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
        _check(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found)))
        return found.value


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
