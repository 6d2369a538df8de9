"""The workbench's way: a model's name -> a bundle that was proved, gated and verified, or nothing.

    source -> trace -> quantize, compile, pack -> prove and gate -> goldens -> verify in a fresh process -> publish

Each heavy step runs in a worker process; this file only says what follows what. Knows no architecture and no engine.
Imports nothing heavy, as `import edgekit` imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Progress
from edgekit.errors import DeviceError, UsageError, VerificationError

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Goldens, Graph, Variant
    from edgekit.workbench.plan import EngineOptions, Plan

SCRATCH = ".scratch"
ROADS = {"building": "edgekit.workbench.reference", "tracing": "edgekit.workbench.traced_reference"}
# What each road to a graph needs of the extra `export`.
BUILDING = ("onnx", "onnx_ir")
MODULES = ("torch", *BUILDING, "onnxscript")
TRACING = ("torch", "transformers", "optimum", "requests", "safetensors", *BUILDING, "onnxscript")
TOOLS = ("torch", "transformers", "optimum", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino", "numpy")


def export(
    model: Any,
    output: str | Path,
    *,
    task: str | None = None,
    targets: Sequence[str] = (),
    precision: str | Sequence[str] = (),
    method: str | None = None,
    group_size: int | None = None,
    engine_options: EngineOptions | None = None,
    calibration: str | Path | None = None,
    max_accuracy_loss: float | None = None,
    dimensions: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    memory_limit: int | None = None,
    force: bool = False,
    offline: bool = False,
    states: Mapping[str, str] | None = None,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a model to a bundle in the folder `output`, which is whole or, after any failure, as it was before.

    `model`: its name, or a torch.nn.Module that reads a series step by step: `forward(x, h, ...)` gives the results
    and the new states, in the order of `states`, which says what each goes into: `{"h": "h_next"}`, input to output.
    `example_inputs`: float32 tensors by position or by name, x (batch, time, features). Of an .onnx file `states` names
    its ports, input to output.

    `targets` and `precision`: every combination becomes a variant; without them, all targets of this machine in int8.
    `engine_options`: what an engine is told besides, kept in the bundle and used wherever it runs:
    `{"openvino": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}}`. `max_accuracy_loss`: how far a quantized variant may be
    from the reference, as the head's measure says (1 - mean cosine, share of other labels); a variant beyond it is a
    VerificationError. `calibration`: a text file with samples of your own, one a line. `dimensions`: Matryoshka cut
    that becomes the bundle's default. `memory_limit` in bytes. Raises any EdgeKitError.
    """
    from edgekit import device
    from edgekit.bundle import publish
    from edgekit.source import onnx_file
    from edgekit.workbench import plan as planning

    if max_accuracy_loss is not None and not 0 <= max_accuracy_loss <= 1:
        raise UsageError(f"--max-accuracy-loss is {max_accuracy_loss}", hint="give a share from 0 to 1: 0.02")
    _refuse_device(BUILDING)
    say = progress or (lambda stage, what: None)
    with contextlib.ExitStack() as held:
        if not isinstance(model, str):
            _refuse_device(MODULES)
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
            model, states = onnx_file.traced(model, example_inputs, states, folder, say), None
        made = planning.plan(
            model,
            task=task,
            targets=targets,
            precision=(precision,) if isinstance(precision, str) else precision,
            method=method,
            group_size=group_size,
            engine_options=engine_options,
            revision=revision,
            trust_remote_code=trust_remote_code,
            offline=offline,
            states=states,
        )
        _refuse_device(TRACING if made.traced else BUILDING)
        planning.check_memory(made, memory_limit, device.available_memory())
        work = held.enter_context(publish.into(Path(output), force=force))
        publish.need(work, made.disk_needed)
        for missing in made.left_out:
            say("plan", missing)
        bench = Workbench(made, work, memory_limit or device.available_memory(), max_accuracy_loss, say)
        bundle = bench.make(Path(calibration) if calibration else None, dimensions)
    return replace(bundle, folder=Path(output))


@dataclass(frozen=True)
class Reference:
    """What variants are made of and held against. `answers`: the unquantized model's, an array a sample; `tokens`:
    each sample's ids; `size`: bytes of the unquantized graph. `build` and `gate`: what the workers of these stages must
    know besides."""

    answers: list[Array]
    tokens: list[Array]
    size: int
    build: dict[str, Any]
    gate: dict[str, Any]


@dataclass(frozen=True)
class Workbench:
    """One export under way in the folder `work`, which nobody else sees yet."""

    plan: Plan
    work: Path
    memory_limit: int | None
    max_accuracy_loss: float | None
    say: Progress

    def make(self, calibration: Path | None, dimensions: int | None) -> Bundle:
        """All the stages, in order."""
        from edgekit import samples

        (self.work / SCRATCH).mkdir()
        settings = self._settings(dimensions)
        items = self._items(calibration, settings)
        if self.plan.source.random:  # nothing is judged by them
            items = items[: samples.GOLDENS]
        bundle = self._bundle(settings)
        reference = self._prepare(bundle, items)
        variants, answers, reference = self._gate(bundle, self._build(reference), items, reference)
        bundle = replace(bundle, variants=tuple(variants))
        bundle = replace(bundle, goldens=self._goldens(bundle, items, reference, answers))
        return self._finish(bundle)

    def _items(self, calibration: Path | None, settings: dict[str, Any]) -> list[Any]:
        """What the variants are measured on: the user's samples, or ours."""
        from edgekit import samples, series

        if self.plan.ingest == "series":
            return list(series.read(calibration, settings["features"]) if calibration else series.waves(settings))
        texts = samples.read(calibration) if calibration else list(samples.TEXTS)
        items = samples.for_task(self.plan.task, texts, settings)
        return self._prompts(items, settings) if self.plan.loop == "decode" and calibration is None else items

    def _prompts(self, texts: list[str], settings: dict[str, Any]) -> list[str]:
        from edgekit import registry, samples

        ingest = registry.find("ingest", self.plan.ingest).open(self.work, settings)

        def tokens(text: str) -> int:
            return len(ingest.encode([text], truncate=True)[0].ids)

        return samples.prompts(texts, tokens, min(samples.PROMPT, ingest.context // 2))

    def _settings(self, dimensions: int | None) -> dict[str, Any]:
        """What the device must know, with the tokenizer's file beside it."""
        from edgekit import registry
        from edgekit.source import weights

        found = self.plan.source
        if self.plan.traced and not found.random:  # who builds a graph sees every number of it
            self.say("source", f"checking the weights of {found.id}")
            _refuse_nonfinite(weights.nonfinite(found.folder))
        if self.plan.ingest != "series":
            self._tokenizer()
        settings: dict[str, Any]
        exporter = registry.exporter(found.arch)
        if look := getattr(exporter, "look", ""):
            settings = self.run(look, "settings", {"source": self.source()})
        else:
            settings = exporter.settings(found, self.plan.task, self.work)
        if dimensions is not None:
            if "dimensions" not in settings:
                raise UsageError("--dimensions is for embeddings", hint=f"the task here is {self.plan.task}")
            settings["dimensions"] = dimensions
        return settings

    def _tokenizer(self) -> None:
        """tokenizer.json in the work folder: the model's, or one that stands in for that of random weights."""
        import json
        import shutil

        from edgekit.source import resolve

        found, file = self.plan.source, self.work / "tokenizer.json"
        if found.random:
            made = resolve.stand_in_tokenizer(found.config["vocab_size"], found.config.get("pad_token_id"))
            file.write_text(json.dumps(made), encoding="utf-8")
        elif (found.folder / "tokenizer.json").is_file():
            shutil.copyfile(found.folder / "tokenizer.json", file)
        else:
            self.run(
                "edgekit.exporters._trace.tokenizer:work",
                "tokenizer",
                {"folder": str(found.folder), "target": str(file)},
            )

    def _bundle(self, settings: dict[str, Any]) -> Bundle:
        from edgekit.core import Bundle

        made = self.plan
        return Bundle(self.work, made.source, made.task, made.ingest, made.loop, made.head, settings, ())

    def _prepare(self, bundle: Bundle, items: list[Any]) -> Reference:
        """What the variants are made of and held against, by the road that the exporter takes."""
        from importlib import import_module

        reference: Reference = import_module(ROADS[self.plan.road]).prepare(self, bundle, items)
        return reference

    def _build(self, reference: Reference) -> list[Variant]:
        """Quantized and compiled graphs in the work folder, one variant for each choice of the plan."""
        import msgspec

        from edgekit import registry
        from edgekit.core import Graph, Variant

        choices = self.plan.choices
        order = reference.build | {
            "folder": str(self.work),
            "variants": [[choice.target, msgspec.to_builtins(choice.recipe), choice.options] for choice in choices],
        }
        graphs: list[Graph] = msgspec.convert(self.run("edgekit.workbench.variants:work", "build", order), list[Graph])
        return [
            Variant(
                choice.target,
                choice.recipe,
                (graph,),
                registry.find("targets", choice.target).facts(choice.recipe, graph),
                options=choice.options,
            )
            for choice, graph in zip(choices, graphs, strict=True)
        ]

    def _gate(
        self, bundle: Bundle, variants: list[Variant], items: list[Any], reference: Reference
    ) -> tuple[list[Variant], dict[str, list[Array]], Reference]:
        """Each variant proved, measured and held against the reference, and what it answers to the goldens.

        Raises VerificationError.
        """
        import msgspec

        from edgekit import registry, samples
        from edgekit.verify import read_arrays
        from edgekit.workbench import gate

        scratch, measured, answers = self.work / SCRATCH, [], {}
        goldens = min(samples.GOLDENS, len(items))
        head = registry.find("heads", bundle.head)
        for number, variant in enumerate(variants):
            order = reference.gate | {
                "bundle": msgspec.to_builtins(bundle, enc_hook=str),
                "variant": msgspec.to_builtins(variant),
                "samples": items,
                "goldens": goldens,
                "answers": str(scratch / f"answers-{number}.npz"),
            }
            self.say("gate", f"{variant.name} against the reference")
            figures = self.run("edgekit.workbench.gate:work", "gate", order)
            found = read_arrays(Path(order["answers"]), ["samples"], len(items))["samples"]
            if not reference.answers:  # made-up weights of a real size: the first variant is all there is
                reference = replace(reference, answers=found)
            agreement = head.compare(*gate.compared(bundle, items, reference.answers, found), bundle.settings)
            figures |= {"metric": agreement.metric, "agreement": agreement.value, "loss": agreement.loss}
            figures |= {"samples": len(items), "bytes": self.bytes(*_files(variant))}
            figures |= {"fp32_bytes": reference.size} if reference.size else {}
            self.say("gate", gate.sentence(variant.name, figures))
            if not bundle.source.random:
                gate.check(variant, agreement, self.max_accuracy_loss, getattr(head, "BUDGET", gate.BUDGET))
            measured.append(replace(variant, measured=figures))
            answers[variant.name] = read_arrays(Path(order["answers"]), ["goldens"], goldens)["goldens"]
        return measured, answers, reference

    def bytes(self, *paths: str) -> int:
        """What a device must keep to run the graphs at these: the files, and their tensors in the file of weights."""
        from edgekit.bundle import onnx_file

        tensors = {tensor for path in paths for tensor in onnx_file.read(self.work, path).external}
        places = {(tensor.location, tensor.offset): tensor.size for tensor in tensors}
        return sum((self.work / path).stat().st_size for path in paths) + sum(places.values())

    def _goldens(
        self,
        bundle: Bundle,
        items: list[Any],
        reference: Reference,
        answers: dict[str, list[Array]],
    ) -> Goldens:
        """The first samples with the reference's and each variant's answers."""
        from edgekit import registry, samples
        from edgekit.core import Goldens
        from edgekit.verify import write_arrays
        from edgekit.workbench import gate

        count = min(samples.GOLDENS, len(items))
        head = registry.find("heads", bundle.head)
        kept: dict[str, Sequence[Array]] = dict(answers)
        losses = {
            name: gate.allowed(head.compare(reference.answers[:count], found, bundle.settings).loss)
            for name, found in kept.items()
        }
        tolerances = {variant.name: gate.tolerance(variant, kept[variant.name]) for variant in bundle.variants}
        kept["reference"], kept["tokens"] = reference.answers[:count], reference.tokens[:count]
        write_arrays(self.work / "goldens.npz", kept)
        return Goldens(tuple(items[:count]), "goldens.npz", tolerances, losses)

    def _finish(self, bundle: Bundle) -> Bundle:
        """Write the manifest, then load and verify the whole in a fresh process."""
        import shutil

        from edgekit.bundle import manifest

        shutil.rmtree(self.work / SCRATCH)
        manifest.write(bundle, self.work, _versions())
        self.say("verify", "loading the bundle in a fresh process")
        targets = sorted({variant.target for variant in bundle.variants})
        for check in self.run("edgekit.verify:work", "verify", {"folder": str(self.work), "targets": targets}):
            if not check["ok"]:
                raise VerificationError(
                    f"{check['variant']} does not repeat itself: {check['why']}",
                    hint="nothing was published; the machine may be faulty, or the engine is not deterministic",
                )
        return bundle

    def source(self) -> dict[str, Any]:
        """The source, as a worker reads it."""
        return vars(self.plan.source) | {"folder": str(self.plan.source.folder)}

    def run(self, function: str, stage: str, order: dict[str, Any]) -> Any:
        from edgekit.workbench import worker

        return worker.run(function, order, self.work, stage=stage, memory_limit=self.memory_limit, progress=self.say)


def _files(variant: Variant) -> list[str]:
    return [path for graph in variant.graphs for path in graph.files]


def _refuse_device(needed: Sequence[str]) -> None:
    """Before any work is done for nothing. Imports none of it."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise DeviceError(
            f"exporting needs {', '.join(missing)}, not installed here",
            hint="pip install torch==2.13.0, then pip install 'edgekit[export]'; or export on another machine",
        )


def _refuse_nonfinite(names: Sequence[str]) -> None:
    if names:
        raise VerificationError(
            f"weight {names[0]!r} holds a NaN or an infinity",
            hint="the file is damaged or the training diverged; no graph made of it can be right",
            tensors=list(names[:20]),
        )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
