"""The first stage of an export: settings, samples, float graphs, and the reference model's outputs.

Runs in a worker process. The reference outputs come from the task's own code (`Model.outputs`) on reference sessions:
torch's modules, or a float graph as it is, before any target's form of it. Knows no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from edgekit import registry
from edgekit.bundle import onnx_file
from edgekit.bundle import settings as bundle_settings
from edgekit.checks import goldens, samples
from edgekit.core import Bundle, Graph, Recipe, Source, Variant
from edgekit.errors import UsageError
from edgekit.machine import device, memory_pages
from edgekit.workbench import prove

if TYPE_CHECKING:
    from edgekit.core import Exporter, Say
    from edgekit.model import Model
    from edgekit.session import Session

FLOATS, STORED, OUTPUTS, SAMPLES = "fp32", "stored", "reference.npz", "samples.npz"  # in the scratch folder
PROOFS = "proof-"  # how the names of files begin that are not the model's


class Order(msgspec.Struct):
    """What the worker is told. `folder` is the bundle's; `floats`: a variant is a float graph as it is."""

    source: dict[str, Any]
    task: str
    folder: str
    scratch: str
    targets: list[str]
    floats: bool
    calibration: str | None = None
    dimensions: int | None = None


class Reference(msgspec.Struct):
    """What variants are made of and compared with.

    `graphs`: float graphs in the folder FLOATS of the scratch; none where the exporter quantizes and nobody asked for
    them. `size`: bytes of all parameters in float32, however they are stored. `outputs`: whether the reference's
    outputs for the samples lie in OUTPUTS; not where weights are made up and graphs are built. `notes`: what the user
    is warned of.
    """

    settings: dict[str, Any]
    samples: list[Any]
    graphs: tuple[Graph, ...] = ()
    size: int = 0
    outputs: bool = False
    notes: list[str] = []


def work(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job. Raises UnsupportedError, BundleError, UsageError, VerificationError."""
    order = msgspec.convert(payload, Order)
    source = source_of(order.source)
    exporter: Exporter = registry.exporter(source.arch)
    settings = _settings(exporter, source, order)
    bundle = Bundle(Path(order.folder), source, (order.task,), settings, ())
    kind: type[Model] = registry.task(order.task)
    notes = kind.check_export(bundle, exporter)
    inputs = kind.samples(bundle, Path(order.calibration) if order.calibration else None)
    if source.random:  # nothing is judged by them
        inputs = inputs[: goldens.COUNT]
    made = Reference(settings, samples.write(Path(order.scratch) / SAMPLES, inputs), notes=notes)
    if exporter.needs_torch or not source.random:
        made = _computed(exporter, bundle, order, made, inputs, say)
    return cast("dict[str, Any]", msgspec.to_builtins(made))


def source_of(told: dict[str, Any]) -> Source:
    """A source, once it was JSON."""
    return Source(**told | {"folder": Path(told["folder"])})


def _settings(exporter: Exporter, source: Source, order: Order) -> dict[str, Any]:
    settings = exporter.settings(source, order.task, Path(order.folder))
    if order.dimensions is not None:
        if "dimensions" not in settings:
            raise UsageError("--dimensions is for embeddings", hint=f"the task here is {order.task}")
        settings["dimensions"] = order.dimensions
    bundle_settings.check(
        (order.task,), settings, "the model's own files say so; correct them, or choose another model"
    )
    return settings


def _computed(
    exporter: Exporter, bundle: Bundle, order: Order, made: Reference, inputs: Sequence[Any], say: Say
) -> Reference:
    """The reference with its outputs, which are written into the scratch folder."""
    scratch = Path(order.scratch)
    floats: tuple[Graph, ...] = ()
    if order.floats or not exporter.as_stored:
        floats = exporter.graphs(bundle.source, order.task, Recipe(), _folder(scratch / FLOATS), say)
        _prove(exporter, floats, scratch / FLOATS, order.targets, say)
    home = scratch / FLOATS if floats else _folder(scratch / STORED)
    found = floats if floats and exporter.quantizes else exporter.reference(bundle.source, order.task, home, say)
    graphs, sessions = (floats, found) if isinstance(found, Mapping) else opened(home, found)
    say("computing the reference")
    kind: type[Model] = registry.task(order.task)
    variant = Variant("cpu", Recipe(), graphs)
    with memory_pages.giving_back(home), kind(bundle, variant, device.threads(), sessions=sessions) as model:
        outputs = model.outputs(inputs)
    goldens.write_arrays(scratch / OUTPUTS, {goldens.REFERENCE: outputs})
    return replace(made, graphs=floats, size=_float32_bytes(home), outputs=True)


def _float32_bytes(home: Path) -> int:
    """Four bytes for each parameter of the graphs in a folder; the files' size where they keep no weights beside them.

    A checkpoint may be stored in bfloat16: the size of its files says nothing of float32.
    """
    files = [file for file in sorted(home.rglob("*")) if file.is_file() and not file.name.startswith(PROOFS)]
    graphs = [str(file.relative_to(home)) for file in files if file.suffix == ".onnx"]
    tensors = [(path, tensor) for path in graphs for tensor in onnx_file.read(home, path).external]
    places = {(Path(path).parent / each.location, each.offset): math.prod(each.shape) for path, each in tensors}
    return 4 * sum(places.values()) if places else sum(file.stat().st_size for file in files)


def _prove(exporter: Exporter, floats: Sequence[Graph], folder: Path, targets: Sequence[str], say: Say) -> None:
    """What can be said of the float graphs before anything is made of them."""
    if exporter.quantizes:  # else every float variant is held against the proof at the gate
        prove.hold_against_torch(floats, folder, targets, say)
    for graph in floats:
        if graph.kind == "stream":
            say("comparing single steps with whole series")
            prove.check_steps(folder, graph)


def opened(folder: Path, graphs: Sequence[Graph]) -> tuple[tuple[Graph, ...], dict[str, Session]]:
    """Float graphs open on the CPU, to compute a reference: a decoder reads whole prompts, without a state.

    Its weights stay mapped and unpacked, so that those of a large model need not fit into memory.
    """
    plain = tuple(replaced(each, states=(), kind="plain") if each.kind == "decoder" else each for each in graphs)
    options = {"session.disable_prepacking": "1"}
    cpu = registry.find("targets", "cpu")
    sessions = {
        graph.name: cpu.open(
            folder, graph, Recipe(), threads=device.threads(), options=options if whole.kind == "decoder" else {}
        )
        for graph, whole in zip(plain, graphs)
    }
    return plain, sessions


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
