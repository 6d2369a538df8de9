"""ONNX Runtime itself: the import of its package, and its exceptions as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgekit.errors import BundleError, DeviceError, EdgeKitError, InputError
from edgekit.machine.native_calls import enter, leave
from edgekit.machine.shortage import engine_shortage, import_error

GPU = re.compile(r"CUDA|CUBLAS|cuBLAS|CUDNN|cuDNN|libcu\w+\.so")  # not the name of a file or of a target
# What a run says of an input whose value, not its shape, is wrong. Bound inputs have no exception of their own for it.
OUT_OF_RANGE = ("out of data bounds", "cos_cache")


def onnxruntime() -> Any:
    """The package. Raises ResourceError, DeviceError where it is installed and cannot be loaded."""
    try:
        import onnxruntime
    except ImportError as error:
        raise import_error("ONNX Runtime", error) from error
    return onnxruntime


@cache
def exceptions() -> tuple[type[Exception], ...]:
    """What it raises: its own, which have no base class, RuntimeError, and pybind's for a name that is not UTF-8."""
    onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))
    return (RuntimeError, UnicodeDecodeError, *own)


@contextmanager
def opening(path: str) -> Iterator[None]:
    """The native call that opens a graph. Raises BundleError, DeviceError, ResourceError."""
    enter()
    try:
        yield
    except exceptions() as error:
        raise open_error(path, error) from error
    finally:
        leave()


@contextmanager
def running(path: str) -> Iterator[None]:
    """A native call that runs a graph. Raises InputError, BundleError, DeviceError, ResourceError."""
    enter()
    try:
        yield
    except exceptions() as error:
        raise run_error(path, error) from error
    finally:
        leave()


def open_error(path: str, error: Exception) -> EdgeKitError:
    """No input was given yet, whatever it says of arguments: it is the file's fault, if not the machine's."""
    what = f"ONNX Runtime cannot open {path}"
    return _machine(what, error) or BundleError(
        what, hint="export the model again with this version", cause=_text(error)
    )


def run_error(path: str, error: Exception) -> EdgeKitError:
    what, text = f"ONNX Runtime failed in {path}", _text(error)
    if machine := _machine(what, error):
        return machine
    if any(words in text for words in OUT_OF_RANGE):
        hint = "check that the tokenizer is this model's, and that the text fits its context"
        return InputError(f"{what}: it has no such token or position", hint=hint, cause=text)
    if type(error).__name__ == "InvalidArgument":
        return InputError(f"{what}: it does not take this input", cause=text)
    return BundleError(what, hint="run `edgekit verify` on the bundle", cause=text)


def _machine(what: str, error: Exception) -> EdgeKitError | None:
    if resource := engine_shortage(error, what, "use fewer or shorter rows, or fewer bits"):
        return resource
    if GPU.search(_text(error)):
        return DeviceError(what, hint="see `edgekit doctor` for the driver and the libraries", cause=_text(error))
    return None


def _text(error: Exception) -> str:
    """Its words; a name that is not UTF-8 cannot be shown, and pybind says so with an error of its own."""
    if isinstance(error, UnicodeDecodeError):
        return f"a name in the graph is not UTF-8: {error}"
    return str(error)
