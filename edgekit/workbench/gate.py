"""Measure the accuracy and latency of variants in a fresh process, and compare them with the reference.

A float variant is held against the reference at shapes that the tracer never saw. Every variant answers the bundle's
samples; the task's `compare` says how near these outputs are to the reference's, and a loss beyond the budget is a
refusal. Latency and size stand beside it, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import registry
from edgekit.bundle.safe_files import size_text
from edgekit.checks import goldens, invariance, samples
from edgekit.core import QUANTIZED, Bundle, Graph, Measure, Recipe, Variant
from edgekit.errors import VerificationError
from edgekit.reporting.number_text import measure
from edgekit.workbench import prove

if TYPE_CHECKING:
    from edgekit.model import Model

OUTPUTS, GOLDENS, ENCODED = "outputs", "goldens", "encoded"  # of each variant, in its own file


class Order(msgspec.Struct):
    """What the worker is told: variants of one target, and where each one's outputs are written.

    `samples` are apart from their arrays, which are in the file `arrays`.
    `floats`: the folder of the float graphs, relative to the bundle's, with their proofs, if an exporter left them to
    be quantized; `graphs` are these.
    """

    bundle: dict[str, Any]
    variants: list[Variant]
    files: list[str]
    samples: list[Any]
    arrays: str
    floats: str = ""
    graphs: tuple[Graph, ...] = ()


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The worker's job: prove and time each variant, and write its outputs for the samples and for the goldens.

    Raises VerificationError when one is not what the reference is.
    """
    from edgekit.workbench.variants import bundle_of

    order = msgspec.convert(payload, Order)
    bundle, figures = bundle_of(order.bundle), list[dict[str, Any]]()
    order.samples = samples.read(Path(order.arrays), order.samples)
    for variant, file in zip(order.variants, order.files, strict=True):
        say(f"comparing {variant.name} with the reference")
        figures.append(_measured(bundle, variant, order, Path(file)))
    quantized = [row for row, variant in zip(figures, order.variants) if variant.recipe.weights in QUANTIZED]
    if order.graphs and quantized:
        with _opened(bundle, plain(order.variants[0], order)) as model:
            milliseconds = _milliseconds(model, order.samples)
        for row in quantized:
            row["fp32_milliseconds"] = milliseconds
    return figures


def _measured(bundle: Bundle, variant: Variant, order: Order, file: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    first = order.samples[: goldens.COUNT]
    with _opened(bundle, variant) as model:
        if order.floats and variant.recipe.weights in prove.ALLOWED:
            difference = prove.prove_all(model.sessions, bundle.folder / order.floats, variant.recipe, variant.name)
            row |= {} if difference is None else {"proof_difference": difference}
        outputs = model.outputs(order.samples)
        # Where an item's outputs may depend on the others of its call, goldens are asked as `verify` will ask.
        alone = model.ALONE or len(order.samples) == len(first)
        kept = outputs[: len(first)] if alone else model.outputs(first)
        arrays = {OUTPUTS: outputs, GOLDENS: kept, ENCODED: model.encode(first)}
        goldens.write_arrays(file, arrays)
        row |= invariance.measure(model, first).facts
        row["milliseconds"] = _milliseconds(model, order.samples)
    return row


def _opened(bundle: Bundle, variant: Variant) -> Model:
    from edgekit.machine import device

    kind: type[Model] = registry.task(bundle.task)
    return kind(bundle, variant, device.threads())


def _milliseconds(model: Model, inputs: list[Any]) -> float:
    return round(model.seconds(inputs) * 1e3, 3)


def plain(variant: Variant, order: Order) -> Variant:
    """The float graphs as they were traced, on the same target."""
    graphs = tuple(replace(graph, path=f"{order.floats}/{graph.path}") for graph in order.graphs)
    return replace(variant, recipe=Recipe(), graphs=graphs)


def check(variant: Variant, agreement: Measure, limit: float | None, budget: Mapping[str, float]) -> None:
    """Raise VerificationError where the variant lost more than the task's budget, or than `limit`."""
    weights = variant.recipe.weights
    allowed = limit if limit is not None and weights in QUANTIZED else budget[weights]
    if agreement.loss <= allowed:
        return
    raise VerificationError(
        f"{variant.name} lost too much accuracy: {agreement.metric} is {agreement.value:.6g}, "
        f"a loss of {agreement.loss:.3g}, and {allowed:.3g} is allowed",
        hint="nothing was published; use --precision fp32, or raise --max-accuracy-loss",
        variant=variant.name,
        loss=agreement.loss,
        allowed=allowed,
    )


def sentence(name: str, figures: Mapping[str, Any]) -> str:
    """What was measured, for a person."""
    size, latency = size_text(figures["bytes"]), f"{figures['milliseconds']:.2f} ms"
    before = ""
    if "fp32_milliseconds" in figures:
        before = f" (fp32: {size_text(figures['fp32_bytes'])}, {figures['fp32_milliseconds']:.2f} ms)"
    figure = measure(figures["metric"], figures["agreement"])
    known = f"{name}: {figure}, {size}, {latency}{before}"
    if figures["batch_invariant"]:
        return known
    return f"{known}; an item's outputs depend on its batch: they differ by {figures['batch_difference']:.2g}"
