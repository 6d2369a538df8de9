"""What every session in OpenVINO needs: where it runs, its requests, and the engine's exceptions as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgekit.errors import BundleError, DeviceError, InputError, ResourceError

DEVICE = "CPU"


@cache
def core() -> Any:
    """The only Core of this process, as long as it lives.

    OpenVINO 2026.4 gives the thread that makes a Core's CPU plugin a stack for signal handlers, and when the plugin
    goes, the one that was there before it. Of two Cores the second would give back that of the first, which is gone,
    and the next signal would end the process.
    """
    import openvino

    return openvino.Core()


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
def engine_errors(what: str) -> Iterator[None]:
    """OpenVINO's exceptions, all RuntimeError, as ours: the meaning first, its own text under `cause`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "alloc" in text.lower():
            hint = "use smaller batches or a smaller precision"
            raise ResourceError(f"{what}: out of memory", hint=hint, cause=text) from error
        if "shape" in text.lower() and "failed in" in what:
            raise InputError(f"{what}: it does not take this input", cause=text) from error
        raise BundleError(what, hint="run `edgekit verify` on the bundle", cause=text) from error
