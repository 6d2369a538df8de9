"""A model's portable graphs -> every graph of its bundle: quantized for a recipe, compiled for a target, packed.

Runs in a worker process, as graph surgery on a hostile or huge model may crash or eat all memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import device, registry
from edgekit.core import Graph, Recipe, Source, State
from edgekit.quantize import smooth
from edgekit.quantize.recipes import apply
from edgekit.workbench import graph
from edgekit.workbench.gate import read_batches

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

    Portable = tuple[ir.Model, tuple[State, ...], str]  # and its kind


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The worker's job: for each of `payload["variants"]` (target, recipe, options) its graphs, written to the folder.

    Variants whose graphs come out alike share one file, and all share one file of weights.
    """
    folder = Path(payload["folder"])
    proven = {axis: tuple(lengths) for axis, lengths in payload.get("proven", {}).items()}
    recipes = [msgspec.convert(recipe, Recipe) for _, recipe, _ in payload["variants"]]
    make = traced(payload, recipes) if "traced" in payload else built(payload, say)
    forms: dict[str, Form] = {}
    paths: list[str] = []
    for (target, _, options), recipe in zip(payload["variants"], recipes, strict=True):
        say(f"{target}: {recipe.name}")
        portable, states, kind = make(recipe)
        before = graph.fingerprint(portable)
        module = registry.find("targets", target)
        compiled = module.compile(portable, recipe, options, kind=kind)
        own = "" if before == graph.fingerprint(compiled) else f"-{target}"
        plain = recipe.method == "none" and (not own or recipe.weights == "fp32")
        path = f"model{own}.onnx" if plain else f"model-{recipe.name}{own}.onnx"
        if path not in forms:
            prompt = module.prompt(compiled) if hasattr(module, "prompt") else None
            forms[path] = Form(compiled, states, kind, prompt)
        paths.append(path)
    say("packing weights")
    graph.pack({path: model for name, form in forms.items() for path, model in form.files(name)}, folder)
    return [msgspec.to_builtins(forms[path].describe(path, proven)) for path in paths]


@dataclass(frozen=True)
class Form:
    """A compiled graph, and the other form that its target reads prompts with, where it has one."""

    model: ir.Model
    states: tuple[State, ...]
    kind: str  # the portable graph's
    prompt: ir.Model | None

    def files(self, path: str) -> Iterator[tuple[str, ir.Model]]:
        yield path, self.model
        if self.prompt is not None:
            yield _of_prompt(path), self.prompt

    def describe(self, path: str, proven: dict[str, tuple[int, ...]]) -> Graph:
        prompt = self.prompt and graph.describe(self.prompt, "prompt", _of_prompt(path), {}, kind=self.kind)
        return replace(graph.describe(self.model, "model", path, proven, self.states, self.kind), prompt=prompt)


def _of_prompt(path: str) -> str:
    return f"{path.removesuffix('.onnx')}-prompt.onnx"


def traced(payload: dict[str, Any], recipes: list[Recipe]) -> Callable[[Recipe], Portable]:
    """Portable graphs are the traced one, quantized."""
    file = Path(payload["traced"])
    largest = calibrate(file, Path(payload["samples"])) if any(recipe.calibration for recipe in recipes) else None

    def make(recipe: Recipe) -> Portable:
        return apply(graph.load(file), recipe, largest if recipe.calibration else None), (), "plain"

    return make


def built(payload: dict[str, Any], say: Callable[[str], None]) -> Callable[[Recipe], Portable]:
    """Portable graphs are written by the exporter, quantized on the way; each recipe's once.

    `payload["built"]`: the states and the kind of those that lie in the scratch folder already.
    """
    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
    exporter, scratch = registry.exporter(source.arch), Path(payload["scratch"])
    files = msgspec.convert(payload.get("built", {}), dict[str, tuple[tuple[State, ...], str]])

    def make(recipe: Recipe) -> Portable:
        name = "fp32" if recipe.method == "none" else recipe.name
        file = scratch / f"{name}.onnx"
        if name not in files:
            portable = exporter.build(source, recipe, file, say)
            files[name] = portable.states, portable.kind
        states, kind = files[name]
        return graph.load(file), states, kind

    return make


def calibrate(traced: Path, samples: Path) -> dict[str, Array]:
    """The largest magnitude in each channel of the values to smooth, when the traced graph runs on the samples."""
    model = graph.load(traced)
    wanted = smooth.sources(model)
    if not wanted:
        return {}
    for readers in wanted.values():
        model.graph.outputs.append(readers[0].inputs[0])
    probe = traced.with_name("calibrate.onnx")
    probe.write_bytes(graph.to_bytes(model))
    noun = graph.describe(model, "calibrate", probe.name, {})
    noun = replace(noun, outputs=tuple(port for port in noun.outputs if port.name in wanted))
    session = registry.find("targets", "cpu").open(traced.parent, noun, Recipe(), threads=device.threads())
    try:
        return smooth.maxima(session.run(feeds)[0] for feeds in read_batches(samples))
    finally:
        session.close()
