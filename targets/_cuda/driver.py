"""Device memory through NVIDIA's driver library, in the context that ONNX Runtime computes in.

libcuda comes with the driver, so it is there wherever a GPU is, whatever CUDA toolkit ONNX Runtime was built with, and
the names and structures used here have not changed since CUDA 4 (docs.nvidia.com/cuda/cuda-driver-api). The context is
the device's primary one, which the CUDA runtime, and so ONNX Runtime, uses: an address means the same to both. Copies
are done when a call returns. Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgekit.errors import DeviceError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
HOST, DEVICE = 1, 2  # CUmemorytype
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # CUdevice_attribute
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_int),
    "cuCtxPushCurrent_v2": (ctypes.c_void_p,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(ctypes.c_void_p),),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemsetD8_v2": (ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t),
    "cuStreamSynchronize": (ctypes.c_void_p,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class Side(ctypes.Structure):
    """One half of CUDA_MEMCPY2D: where from, or where to."""

    _fields_ = [
        ("x", ctypes.c_size_t),
        ("y", ctypes.c_size_t),
        ("kind", ctypes.c_uint),
        ("host", ctypes.c_void_p),
        ("device", ctypes.c_uint64),
        ("array", ctypes.c_void_p),
        ("pitch", ctypes.c_size_t),
    ]


class Copy(ctypes.Structure):
    """CUDA_MEMCPY2D: `height` pieces of `width` bytes, each `pitch` bytes behind the last."""

    _fields_ = [("source", Side), ("target", Side), ("width", ctypes.c_size_t), ("height", ctypes.c_size_t)]


@cache
def driver(index: int) -> Driver:
    """The one of that device. Raises DeviceError where there is none."""
    try:
        return Driver(ctypes.CDLL(LIBRARY), index)
    except OSError as error:
        raise DeviceError("there is no NVIDIA driver", hint="see `edgekit doctor`", cause=str(error)) from error


class Driver:
    """Memory of one device. Threads may share it."""

    def __init__(self, library: Any, index: int) -> None:
        """Raises DeviceError where the driver reports no such device."""
        self._library = library
        for name, arguments in SIGNATURES.items():
            getattr(library, name).argtypes = arguments
        library.cuMemcpy2DUnaligned_v2.argtypes = (ctypes.POINTER(Copy),)
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def capability(self) -> tuple[int, int]:
        """The compute capability: (8, 0) is Ampere."""
        found = []
        for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR):
            number = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(number), attribute, self._device)
            found.append(number.value)
        return found[0], found[1]

    def zeros(self, size: int) -> int:
        """The address of `size` bytes of zeros. Raises MemoryError, DeviceError."""
        address = ctypes.c_uint64()
        with self._current():
            self._call("cuMemAlloc_v2", ctypes.byref(address), size)
            try:
                self._call("cuMemsetD8_v2", address, 0, size)
                self._call("cuStreamSynchronize", None)
            except DeviceError:
                self._library.cuMemFree_v2(address)
                raise
        return address.value

    def free(self, address: int) -> None:
        with self._current():
            self._call("cuMemFree_v2", address)

    def copy(self, source: Side, target: Side, width: int, height: int) -> None:
        """`height` pieces of `width` bytes. Copies on the device are waited for: ONNX Runtime would not."""
        if not width or not height:
            return
        order = Copy(source, target, width, height)
        with self._current():
            self._call("cuMemcpy2DUnaligned_v2", ctypes.byref(order))
            self._call("cuStreamSynchronize", None)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The thread's context is the device's; afterwards what it was."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises MemoryError, DeviceError."""
        code = getattr(self._library, name)(*arguments)
        if not code:
            return
        said = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(said))
        text = f"{name}: {(said.value or b'error').decode()} ({code})"
        if code == OUT_OF_MEMORY:
            raise MemoryError(text)
        raise DeviceError("the NVIDIA driver failed", hint="see `nvidia-smi` and `edgekit doctor`", cause=text)


def on_device(address: int, pitch: int) -> Side:
    return Side(kind=DEVICE, device=address, pitch=pitch)


def on_host(address: int, pitch: int) -> Side:
    return Side(kind=HOST, host=address, pitch=pitch)
