"""A model's portable graphs -> every graph of its bundle: quantized for a recipe, compiled for a target, packed.

Runs in a worker process, as graph surgery on a hostile or huge model may crash or eat all memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import device, graph, quantize, registry
from edgekit.core import Recipe, Source, State
from edgekit.quantize import smooth
from edgekit.quantize.gate import read_batches

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array

    Portable = tuple[ir.Model, tuple[State, ...]]


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The worker's job: for each of `payload["variants"]` (target, recipe) its graphs, written into the folder.

    Variants whose graphs come out alike share one file, and all share one file of weights.
    """
    folder = Path(payload["folder"])
    proven = {axis: tuple(lengths) for axis, lengths in payload.get("proven", {}).items()}
    recipes = [msgspec.convert(recipe, Recipe) for _, recipe in payload["variants"]]
    make = traced(payload, recipes) if "traced" in payload else built(payload, say)
    models: dict[str, Any] = {}
    states: dict[str, tuple[State, ...]] = {}
    paths: list[str] = []
    for (target, _), recipe in zip(payload["variants"], recipes, strict=True):
        say(f"{target}: {recipe.name}")
        portable, kept = make(recipe)
        before = graph.fingerprint(portable)
        compiled = registry.find("targets", target).compile(portable, recipe)
        after = graph.fingerprint(compiled)
        stem = "model" if recipe.method == "none" else f"model-{recipe.name}"
        path = f"{stem}.onnx" if before == after else f"{stem}-{target}.onnx"
        models.setdefault(path, compiled)
        states[path] = kept
        paths.append(path)
    say("packing weights")
    graph.pack(models, folder)
    graphs = {path: graph.describe(model, "model", path, proven, states[path]) for path, model in models.items()}
    return [msgspec.to_builtins(graphs[path]) for path in paths]


def traced(payload: dict[str, Any], recipes: list[Recipe]) -> Callable[[Recipe], Portable]:
    """Portable graphs are the traced one, quantized."""
    file = Path(payload["traced"])
    largest = calibrate(file, Path(payload["samples"])) if any(recipe.calibration for recipe in recipes) else None

    def make(recipe: Recipe) -> Portable:
        return quantize.apply(graph.load(file), recipe, largest if recipe.calibration else None), ()

    return make


def built(payload: dict[str, Any], say: Callable[[str], None]) -> Callable[[Recipe], Portable]:
    """Portable graphs are written by the exporter, quantized on the way; each recipe's once.

    `payload["built"]`: the states of those that lie in the scratch folder already.
    """
    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
    exporter, scratch = registry.find("exporters", source.arch).EXPORTER, Path(payload["scratch"])
    states = msgspec.convert(payload.get("built", {}), dict[str, tuple[State, ...]])

    def make(recipe: Recipe) -> Portable:
        name = "fp32" if recipe.method == "none" else recipe.name
        file = scratch / f"{name}.onnx"
        if name not in states:
            states[name] = exporter.build(source, recipe, file, say).states
        return graph.load(file), states[name]

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
