"""Switch off the telemetry of the libraries that EdgeKit imports.

`import edgekit` calls `switch_off` first, so every process of ours does: commands, workers, measured processes, and an
application that imports EdgeKit. Each library looks once, when it is imported:

- ONNX Runtime 1.29 and later writes a device id and a database of events into the user's cache, a session file into
  the temporary folder, and sends what it collected. With the variable it makes none of these.
- OpenVINO sends an event on import, and writes a client id into the user's home. Its package `openvino_telemetry` has
  no variable for that, only a file in the home. Where the package cannot be imported OpenVINO uses its own stub.
- huggingface_hub adds the versions of installed libraries to each request.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
OFF = ("1", "true", "yes", "on")  # values with which ONNX Runtime's is off
SENDER = "openvino_telemetry"

_started: list[str] = []


def switch_off() -> None:
    """No telemetry from what this process and its children import from now on, whatever the environment says.

    An engine that was imported before has written its files already. ONNX Runtime is then told to collect no more.
    """
    runtime = sys.modules.get("onnxruntime")
    if runtime is not None and os.environ.get("ORT_DISABLE_TELEMETRY", "").lower() not in OFF:
        _started.append("ONNX Runtime")
        runtime.disable_telemetry_events()
    os.environ.update(VARIABLES)
    if sys.modules.setdefault(SENDER, None) is not None:  # type: ignore[arg-type]  # None: `import` fails
        _started.append("OpenVINO")


def started() -> tuple[str, ...]:
    """The engines that were imported before EdgeKit, with their telemetry on."""
    return tuple(_started)
