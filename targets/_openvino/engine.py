"""OpenVINO itself: its only Core, where models run, their requests, and the engine's exceptions as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, DeviceError, InputError, ResourceError
from edgekit.machine.native_calls import enter, keep_in_children, leave
from edgekit.machine.shortage import engine_shortage, import_error

DEVICE = "CPU"
ERRORS = (RuntimeError, UnicodeDecodeError)  # all that it raises; the second for a name that is not UTF-8
NO_READER = "Cannot load frontend"  # its libraries are all installed: there was no memory for this one


@cache
def core() -> Any:
    """The only Core of this process, as long as it lives.

    OpenVINO 2026.4 gives the thread that makes a Core's CPU plugin a stack for signal handlers, and when the plugin
    goes, the one that was there before it. Of two Cores the second would give back that of the first, which is gone,
    and the next signal would end the process.

    Raises ResourceError, DeviceError where the package is installed and cannot be loaded.
    """
    try:
        import openvino
    except ImportError as error:
        raise import_error("OpenVINO", error) from error

    made = openvino.Core()
    keep_in_children(made)
    return made


def read_model(path: Path) -> Any:
    """The model in an .onnx file. Raises RuntimeError, as OpenVINO does.

    The library that reads ONNX is loaded first. Where memory is too short for it OpenVINO 2026.4 would try its readers
    of other formats on the file, and TensorFlow's was then seen to wait for ever.
    """
    from openvino.frontend import FrontEndManager

    FrontEndManager().load_by_framework("onnx")
    return core().read_model(path)


def placement(compiled: Any) -> str:
    """Where the model really runs. Raises DeviceError where that is not the device that was asked for."""
    found = ",".join(compiled.get_property("EXECUTION_DEVICES"))
    if found != DEVICE:
        raise DeviceError(f"asked for {DEVICE}, and OpenVINO runs on {found}")
    return found


def new_request(compiled: Any) -> Any:
    """A request that keeps the model, and with it the file that its weights may be mapped from, as long as it lives."""
    request = compiled.create_infer_request()
    request.compiled = compiled
    return request


@contextmanager
def opening(path: str) -> Iterator[None]:
    """The native calls that open a graph. Raises BundleError, ResourceError."""
    enter()
    try:
        yield
    except ERRORS as error:
        what, text = f"OpenVINO cannot open {path}", _text(error)
        hint = "close other programs, or use a smaller precision"
        if resource := engine_shortage(error, what, hint):
            raise resource from error
        if NO_READER in text:
            raise ResourceError(f"{what}: out of memory", hint=hint, cause=text) from error
        raise BundleError(what, hint="export the model again with this version", cause=text) from error
    finally:
        leave()


@contextmanager
def running(path: str) -> Iterator[None]:
    """A native call that runs a graph. Raises InputError, BundleError, ResourceError."""
    enter()
    try:
        yield
    except ERRORS as error:
        what, text = f"OpenVINO failed in {path}", _text(error)
        if resource := engine_shortage(error, what, "use smaller batches or a smaller precision"):
            raise resource from error
        if "shape" in text.lower():
            raise InputError(f"{what}: it does not take this input", cause=text) from error
        raise BundleError(what, hint="run `edgekit verify` on the bundle", cause=text) from error
    finally:
        leave()


def _text(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a name in the graph is not UTF-8: {error}"
    return str(error)
