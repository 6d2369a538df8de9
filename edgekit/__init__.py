"""EdgeKit turns a model into something a device can run, and runs it there without torch.

    bundle = edgekit.export("sentence-transformers/all-MiniLM-L6-v2", "minilm.ek")   # on the workbench
    vectors = edgekit.load("minilm.ek").embed(["a", "b"])                            # on the device

`import edgekit` brings no torch, no transformers, no engine and no numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import telemetry

__version__ = "0.1.0"

# In a checkout exporters/, runtimes/ and targets/ lie beside this folder; in a wheel, inside it.
if not (Path(__file__).parent / "exporters").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# Both are light, and imported here at once: the name of a function that is also the name of its module
# would otherwise turn into the module as soon as anybody imports that.
from edgekit.bench import bench
from edgekit.core import Bundle, Check, Measure
from edgekit.errors import (
    BundleError,
    BusyError,
    ClosedError,
    CrashError,
    DeviceError,
    EdgeKitError,
    ForkedSessionError,
    InputError,
    NoSuchMethodError,
    RecordError,
    ResourceError,
    SessionBusyError,
    SourceError,
    StateError,
    TemplateError,
    TokenizerError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from edgekit.export import export
from edgekit.results import Anomaly, Forecast, Label, Piece, Ranked, Result, Span, Token
from edgekit.verify import verify

telemetry.switch_off()  # none of the above imports an engine

if TYPE_CHECKING:
    from edgekit.model import Model as Model
    from edgekit.model import load as load

__all__ = [
    "Anomaly",
    "Bundle",
    "BundleError",
    "BusyError",
    "Check",
    "ClosedError",
    "CrashError",
    "DeviceError",
    "EdgeKitError",
    "Forecast",
    "ForkedSessionError",
    "InputError",
    "Label",
    "Measure",
    "Model",
    "NoSuchMethodError",
    "Piece",
    "Ranked",
    "RecordError",
    "ResourceError",
    "Result",
    "SessionBusyError",
    "SourceError",
    "Span",
    "StateError",
    "TemplateError",
    "Token",
    "TokenizerError",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "__version__",
    "bench",
    "export",
    "load",
    "verify",
]


def __getattr__(name: str) -> Any:
    """`load`, `Model`, and the class of each task by its name: `edgekit.TextGeneration`."""
    if name in ("load", "Model"):
        import edgekit.model

        return getattr(edgekit.model, name)
    if name[:1].isupper():
        from edgekit import registry

        stems = {registry.class_name(stem): stem for stem in registry.names("tasks")}
        if name in stems:
            return registry.task(stems[name])
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
