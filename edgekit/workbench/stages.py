"""The stages of an export, called in order by `edgekit.export`; each takes values and returns values.

    reference -> variants -> gate -> goldens -> finish

Each heavy step runs in a worker process. Knows no architecture, no engine and no modality.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from edgekit import registry
from edgekit.bundle import manifest, onnx_file
from edgekit.checks import goldens
from edgekit.checks import samples as samples_of
from edgekit.core import Bundle, Exporter, Goldens, Graph, Progress, Variant
from edgekit.errors import VerificationError
from edgekit.source import weights
from edgekit.workbench import gate, worker
from edgekit.workbench.plan import Plan, keeps_floats
from edgekit.workbench.reference import FLOATS, OUTPUTS, SAMPLES, Reference

if TYPE_CHECKING:
    from edgekit.core import Array
    from edgekit.model import Model

log = logging.getLogger("edgekit")

SCRATCH = ".scratch"


class Gated(NamedTuple):
    """Variants that passed. `reference`: outputs that they were compared with; by name what each gave for goldens."""

    variants: tuple[Variant, ...]
    reference: list[Array]
    goldens: dict[str, list[Array]]
    encoded: list[Array]


@dataclass(frozen=True)
class Workbench:
    """One export under way in the folder `work`, which nobody else sees yet."""

    plan: Plan
    work: Path
    memory_limit: int | None
    time_limit: float  # seconds for each stage
    say: Progress

    @property
    def scratch(self) -> Path:
        """A folder for what does not go into the bundle."""
        return self.work / SCRATCH

    @property
    def exporter(self) -> Exporter:
        """The architecture's exporter."""
        exporter: Exporter = registry.exporter(self.plan.source.arch)
        return exporter

    def run(self, function: str, stage: str, order: dict[str, Any]) -> Any:
        """What a worker of that stage returns."""
        return worker.run(
            function,
            order,
            self.work,
            stage=stage,
            memory_limit=self.memory_limit,
            time_limit=self.time_limit,
            progress=self.say,
        )


def make(bench: Workbench, calibration: Path | None, dimensions: int | None, max_loss: float | None) -> Bundle:
    """All the stages, in order: the bundle in the workbench's folder, verified in a fresh process."""
    bench.scratch.mkdir()
    made = reference(bench, calibration, dimensions)
    bundle = Bundle(bench.work, bench.plan.source, (bench.plan.task,), made.settings, ())
    gated = judge(bench, bundle, variants(bench, bundle, made), made, max_loss)
    bundle = replace(bundle, variants=gated.variants)
    inputs = read_samples(bench, made)[: goldens.COUNT]
    return finish(bench, replace(bundle, goldens=known_answers(bundle, inputs, gated)))


def clear(bench: Workbench) -> None:
    """Remove what stages left in the work folder, to begin again."""
    for entry in bench.work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def reference(bench: Workbench, calibration: Path | None, dimensions: int | None) -> Reference:
    """Settings, samples, float graphs and the reference's outputs. Raises what the exporter raises."""
    source, exporter = bench.plan.source, bench.exporter
    if exporter.needs_torch and not source.random:  # an exporter that builds a graph sees every number of it
        bench.say("source", f"checking the weights of {source.id}")
        _refuse_nonfinite(weights.nonfinite(source.folder))
    choices = bench.plan.choices
    order = {
        "source": vars(source) | {"folder": str(source.folder)},
        "task": bench.plan.task,
        "folder": str(bench.work),
        "scratch": str(bench.scratch),
        "targets": sorted({choice.target for choice in choices}),
        "floats": keeps_floats(exporter, [choice.recipe for choice in choices]),
        "calibration": str(calibration.absolute()) if calibration else None,
        "dimensions": dimensions,
    }
    stage = "trace" if exporter.needs_torch else "reference"
    made = msgspec.convert(bench.run("edgekit.workbench.reference:work", stage, order), Reference)
    for note in made.notes:
        log.warning("%s", note)
    return made


def variants(bench: Workbench, bundle: Bundle, made: Reference) -> list[Variant]:
    """Quantized and compiled graphs in the work folder, one variant for each choice of the plan."""
    choices = bench.plan.choices
    order = {
        "bundle": _told(bundle),
        "scratch": str(bench.scratch),
        "variants": [[choice.target, msgspec.to_builtins(choice.recipe), choice.options] for choice in choices],
        "samples": made.samples,
        "graphs": msgspec.to_builtins(made.graphs),
    }
    described = msgspec.convert(bench.run("edgekit.workbench.variants:work", "build", order), list[tuple[Graph, ...]])
    return [
        Variant(
            choice.target,
            choice.recipe,
            graphs,
            registry.find("targets", choice.target).facts(choice.recipe, graphs[0]),
            options=choice.options,
        )
        for choice, graphs in zip(choices, described, strict=True)
    ]


def judge(
    bench: Workbench, bundle: Bundle, made: Sequence[Variant], reference: Reference, max_loss: float | None
) -> Gated:
    """Each variant proved, measured and compared with the reference. Raises VerificationError."""
    kind: type[Model] = registry.task(bundle.task)
    samples = read_samples(bench, reference)
    count = min(goldens.COUNT, len(samples))
    figures = _measured(bench, bundle, made, reference)
    expected: list[Array] = []
    if reference.outputs:
        expected = goldens.read_arrays(bench.scratch / OUTPUTS, [goldens.REFERENCE], len(samples))[goldens.REFERENCE]
    kept: dict[str, list[Array]] = {}
    encoded: list[Array] = []
    passed: list[Variant] = []
    for number, variant in enumerate(made):
        file = _answers(bench, number)
        outputs = goldens.read_arrays(file, [gate.OUTPUTS], len(samples))[gate.OUTPUTS]
        expected = expected or outputs  # made-up weights of a real size: the first variant is all there is
        agreement = kind.compare(expected, outputs, bundle.settings, samples)
        row = figures[number] | {"metric": agreement.metric, "agreement": agreement.value, "loss": agreement.loss}
        row |= {"samples": len(samples), "bytes": size_of(bench.work, variant)}
        row |= {"fp32_bytes": reference.size} if reference.size else {}
        bench.say("gate", gate.sentence(variant.name, row))
        if not bundle.source.random:
            gate.check(variant, agreement, max_loss, kind.BUDGET)
        passed.append(replace(variant, measured=row))
        arrays = goldens.read_arrays(file, [gate.GOLDENS, gate.ENCODED], count)
        kept[variant.name], encoded = arrays[gate.GOLDENS], arrays[gate.ENCODED]
    return Gated(tuple(passed), expected, kept, encoded)


def _measured(
    bench: Workbench, bundle: Bundle, made: Sequence[Variant], reference: Reference
) -> dict[int, dict[str, Any]]:
    """The gate's figures by the variant's number: one worker a target."""
    figures: dict[int, dict[str, Any]] = {}
    floats = f"{SCRATCH}/{FLOATS}" if reference.graphs and not bench.exporter.quantizes else ""
    for target in dict.fromkeys(variant.target for variant in made):
        numbers = [number for number, variant in enumerate(made) if variant.target == target]
        order = {
            "bundle": _told(bundle),
            "variants": [msgspec.to_builtins(made[number]) for number in numbers],
            "files": [str(_answers(bench, number)) for number in numbers],
            "samples": reference.samples,
            "arrays": str(bench.scratch / SAMPLES),
            "floats": floats,
            "graphs": msgspec.to_builtins(reference.graphs) if floats else [],
        }
        figures |= zip(numbers, bench.run("edgekit.workbench.gate:work", "gate", order), strict=True)
    return figures


def _answers(bench: Workbench, number: int) -> Path:
    return bench.scratch / f"answers-{number}.npz"


def size_of(folder: Path, variant: Variant) -> int:
    """Bytes that a device must keep to run a variant: its graphs' files, and their tensors in the file of weights."""
    paths = [path for graph in variant.graphs for path in graph.files]
    tensors = {tensor for path in paths for tensor in onnx_file.read(folder, path).external}
    places = {(tensor.location, tensor.offset): tensor.size for tensor in tensors}
    return sum((folder / path).stat().st_size for path in paths) + sum(places.values())


def read_samples(bench: Workbench, reference: Reference) -> list[Any]:
    """The samples with their arrays, which lie in the scratch folder."""
    return samples_of.read(bench.scratch / SAMPLES, reference.samples)


def known_answers(bundle: Bundle, inputs: Sequence[Any], gated: Gated) -> Goldens:
    """These samples with the reference's and each variant's outputs, written into the bundle."""
    kind: type[Model] = registry.task(bundle.task)
    expected = gated.reference[: len(inputs)]
    losses = {
        name: goldens.allowed_loss(kind.compare(expected, outputs, bundle.settings).loss)
        for name, outputs in gated.goldens.items()
    }
    tolerances = {variant.name: goldens.tolerance(variant, gated.goldens[variant.name]) for variant in gated.variants}
    stated, inside = samples_of.apart(inputs)
    arrays = {**gated.goldens, goldens.REFERENCE: expected, goldens.ENCODED: gated.encoded, samples_of.NAME: inside}
    goldens.write_arrays(bundle.folder / goldens.FILE, arrays)
    return Goldens(tuple(stated), goldens.FILE, tolerances, losses)


def finish(bench: Workbench, bundle: Bundle) -> Bundle:
    """Write the manifest, then load and verify the whole in a fresh process. Raises VerificationError."""
    shutil.rmtree(bench.scratch)
    manifest.write(bundle, bench.work, versions())
    bench.say("verify", "loading the bundle in a fresh process")
    targets = sorted({variant.target for variant in bundle.variants})
    for check in bench.run("edgekit.verify:work", "verify", {"folder": str(bench.work), "targets": targets}):
        if not check["ok"]:
            raise VerificationError(
                f"{check['variant']} gives other outputs in a fresh process: {check['why']}",
                hint="nothing was published; the machine may be faulty, or the engine is not deterministic",
            )
    return bundle


TOOLS = ("torch", "transformers", "optimum", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "numpy")


def versions() -> dict[str, str]:
    """The versions of the tools that are installed here."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _told(bundle: Bundle) -> Any:
    return msgspec.to_builtins(bundle, enc_hook=str)


def _refuse_nonfinite(names: Sequence[str]) -> None:
    if names:
        raise VerificationError(
            f"weight {names[0]!r} holds a NaN or an infinity",
            hint="the file is damaged, or the training diverged; download or train the model again",
            tensors=list(names[:20]),
        )
