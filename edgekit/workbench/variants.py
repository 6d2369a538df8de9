"""Make the graphs of a bundle from portable graphs: quantize, compile for each target, pack the weights.

Runs in a worker process, as graph surgery on a hostile or huge model may crash or eat all memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import registry
from edgekit.checks import samples
from edgekit.core import Bundle, Graph, Recipe, Variant
from edgekit.machine import device
from edgekit.quantize import smooth
from edgekit.quantize.recipes import apply
from edgekit.workbench import graph as graphs
from edgekit.workbench.reference import FLOATS, SAMPLES, opened

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.core import Array, Arrays, Exporter, Say
    from edgekit.model import Model
    from edgekit.session import Session

    Portable = tuple[ir.Model, Graph]


class Order(msgspec.Struct):
    """What the worker is told: for each of `variants` target, recipe and engine options."""

    bundle: dict[str, Any]
    scratch: str
    variants: list[tuple[str, Recipe, dict[str, str]]]
    samples: list[Any]
    graphs: tuple[Graph, ...]  # float graphs in the folder FLOATS of the scratch, if they are there


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[list[dict[str, Any]]]:
    """The worker's job: each variant's graphs, written to the bundle's folder.

    Variants whose graphs come out alike share one file, and all share one file of weights.
    """
    order = msgspec.convert(payload, Order)
    bundle = bundle_of(order.bundle)
    portable = Portables(bundle, order, say)
    forms: dict[str, Form] = {}
    variants: list[list[str]] = []
    for target, recipe, options in order.variants:
        say(f"{target}: {recipe.name}")
        paths = []
        for model, noun in portable.of(recipe):
            form = compiled(model, noun, target, recipe.of(noun.name), options)
            path = _path(form, noun, target, recipe.of(noun.name))
            forms.setdefault(path, form)
            paths.append(path)
        variants.append(paths)
    say("packing weights")
    files = {path: model for name, form in forms.items() for path, model in form.files(name)}
    graphs.pack(files, bundle.folder)
    return [[msgspec.to_builtins(forms[path].describe(path)) for path in paths] for paths in variants]


def bundle_of(told: dict[str, Any]) -> Bundle:
    """A bundle, once it was JSON."""
    return msgspec.convert(told, Bundle, dec_hook=lambda kind, value: kind(value))


@dataclass(frozen=True)
class Form:
    """A compiled graph, and the other form that its target reads prompts with, where it has one."""

    model: ir.Model
    noun: Graph  # the portable graph's
    own: bool  # whether the target changed anything
    prompt: ir.Model | None

    def files(self, path: str) -> Iterator[tuple[str, ir.Model]]:
        yield path, self.model
        if self.prompt is not None:
            yield _of_prompt(path), self.prompt

    def describe(self, path: str) -> Graph:
        noun = self.noun
        prompt = self.prompt and graphs.describe(self.prompt, "prompt", _of_prompt(path), {}, kind="decoder")
        described = graphs.describe(self.model, noun.name, path, noun.proven, noun.states, kind=noun.kind)
        return replace(described, prompt=prompt)


def compiled(model: ir.Model, noun: Graph, target: str, recipe: Recipe, options: Mapping[str, str]) -> Form:
    """The target's form of a portable graph, changed in place."""
    module, before = registry.find("targets", target), graphs.fingerprint(model)
    form = module.compile(model, recipe, options, kind=noun.kind)
    prompt = module.prompt(form) if noun.kind == "decoder" and hasattr(module, "prompt") else None
    return Form(form, noun, before != graphs.fingerprint(form), prompt)


def _path(form: Form, noun: Graph, target: str, recipe: Recipe) -> str:
    own = f"-{target}" if form.own else ""
    plain = recipe.method == "none" and (not own or recipe.weights == "fp32")
    return f"{noun.name}{own}.onnx" if plain else f"{noun.name}-{recipe.name}{own}.onnx"


def _of_prompt(path: str) -> str:
    return f"{path.removesuffix('.onnx')}-prompt.onnx"


@dataclass
class Portables:
    """A bundle's portable graphs for any recipe: written by the exporter, or float graphs that are quantized here."""

    bundle: Bundle
    order: Order
    say: Say
    _built: dict[str, tuple[Graph, ...]] = field(default_factory=dict)  # by the folder's name

    def __post_init__(self) -> None:
        self.exporter: Exporter = registry.exporter(self.bundle.source.arch)
        self.largest: dict[str, dict[str, Array]] = {}
        if self.order.graphs:
            self._built[FLOATS] = self.order.graphs
        if not self.exporter.quantizes and any(recipe.calibration for _, recipe, _ in self.order.variants):
            self.largest = calibrate(Path(self.order.scratch) / FLOATS, self.order.graphs, self._feed)

    def _feed(self, graphs: tuple[Graph, ...], sessions: Mapping[str, Any]) -> None:
        """Run the samples through the float graphs, as the device will run them."""
        kind: type[Model] = registry.task(self.bundle.task)
        with kind(self.bundle, Variant("cpu", Recipe(), graphs), device.threads(), sessions=sessions) as model:
            model.outputs(samples.read(Path(self.order.scratch) / SAMPLES, self.order.samples))

    def of(self, recipe: Recipe) -> Iterator[Portable]:
        """Each graph for the recipe, loaded, with its noun."""
        own = FLOATS if recipe.method == "none" or not self.exporter.quantizes else recipe.name
        home = Path(self.order.scratch) / own
        if own not in self._built:
            home.mkdir(exist_ok=True)
            source, task = self.bundle.source, self.bundle.task
            write = recipe if own != FLOATS else Recipe()
            self._built[own] = self.exporter.graphs(source, task, write, home, self.say)
        for noun in self._built[own]:
            model = graphs.load(home / noun.path)
            if not self.exporter.quantizes:
                largest = self.largest.get(noun.name) if recipe.calibration else None
                model = apply(model, recipe.of(noun.name), largest)
            yield model, noun


def calibrate(
    folder: Path, nouns: Sequence[Graph], feed: Callable[[tuple[Graph, ...], Mapping[str, Any]], None]
) -> dict[str, dict[str, Array]]:
    """By graph, the largest magnitude in each channel of the values to smooth, in all that `feed` runs.

    `feed` is called with the float graphs and their sessions, unless there is nothing to smooth.
    """
    probes = [_probe(folder, noun) for noun in nouns]
    if probes == list(nouns):
        return {}
    plain, sessions = opened(folder, probes)
    watched = {
        noun.name: Watched(sessions[noun.name], [port.name for port in probe.outputs[len(noun.outputs) :]])
        for noun, probe in zip(nouns, probes, strict=True)
    }
    try:
        feed(plain, watched)
    finally:
        for session in watched.values():
            session.close()
    return {name: session.largest for name, session in watched.items()}


def _probe(folder: Path, noun: Graph) -> Graph:
    """The graph, beside it, with the values to smooth as further outputs; itself where there are none."""
    model = graphs.load(folder / noun.path)
    values = smooth.sources(model)
    if not values:
        return noun
    for readers in values.values():
        model.graph.outputs.append(readers[0].inputs[0])
    file = folder / f"probe-{noun.path}"
    file.write_bytes(graphs.to_bytes(model))
    return graphs.describe(model, noun.name, file.name, {}, noun.states, kind=noun.kind)


class Watched:
    """A session that remembers the largest magnitudes of some of its outputs."""

    length_step, batch_tokens = 1, 512  # the reference's batches
    placement = "calibration"

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self._session, self._names = session, names
        self.largest: dict[str, Array] = {}

    def run(self, feeds: Arrays, states: Any = None) -> tuple[dict[str, Array], Any]:
        outputs, state = self._session.run(feeds, states)
        smooth.widen(self.largest, {name: outputs[name] for name in self._names})
        return outputs, state

    def close(self) -> None:
        self._session.close()
