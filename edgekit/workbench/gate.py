"""Is a variant still the same model? Runs it in a fresh process, on its target, against the unquantized reference.

A variant that computes in floating point is held against the reference at shapes the tracer never saw. Every variant
answers the bundle's samples; the head says how near these answers are to the reference's, and a loss beyond the budget
is a refusal. Latency and size stand beside it, before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit import registry, series
from edgekit.bundle.safe_files import size_text
from edgekit.core import QUANTIZED, Bundle, Measure, Recipe, Variant
from edgekit.errors import VerificationError

if TYPE_CHECKING:
    from edgekit.core import Array, Arrays
    from edgekit.model import Model
    from edgekit.session import Session

# Largest difference from the reference at unseen shapes, as a share of the reference's largest number.
PROOF = {"fp32": 1e-4, "bf16": 6e-2}
# Largest loss of the head's measure, unless the user gives another.
BUDGET = {"fp32": 1e-4, "bf16": 5e-3, "int8": 2e-2, "int4": 5e-2}
TIMED = 8  # samples whose latency is measured, one at a time
ROUNDS = 5
TOKENS = 12  # of an answer


def work(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job: prove and time one variant of the folder, and write what it answers to the samples.

    Raises VerificationError when it is not what the reference is.
    """
    from edgekit import device
    from edgekit.model import Model
    from edgekit.verify import write_arrays

    bundle = msgspec.convert(payload["bundle"], Bundle, dec_hook=lambda kind, value: kind(value))
    variant = msgspec.convert(payload["variant"], Variant)
    items = [as_item(item) for item in payload["samples"]]
    measured: dict[str, Any] = {}
    with Model(bundle, variant, device.threads()) as model:
        if "proof" in payload and variant.recipe.weights in PROOF:
            found = prove(model.engine, Path(payload["proof"]), variant.recipe, variant.name)
            measured["proof_difference"] = found
        answers = model.numbers(items, truncate=True)
        goldens = answers[: payload["goldens"]]
        if not registry.find("loops", bundle.loop).ALONE:  # as `verify` will ask
            goldens = model.numbers(items[: payload["goldens"]], truncate=True)
        write_arrays(Path(payload["answers"]), {"samples": answers, "goldens": goldens})
        measured["milliseconds"] = latency(model, items)
    if "traced" in payload and variant.recipe.weights in QUANTIZED:
        with Model(bundle, plain(variant, payload["traced"]), device.threads()) as model:
            measured["fp32_milliseconds"] = latency(model, items)
    return measured


def prove(session: Session, file: Path, recipe: Recipe, name: str) -> float:
    """Run the proof's feeds and return the largest difference, as a share of the reference's largest number.

    Of a decoder, calls that are not the `first` of a text go on with the state that the one before left.
    Raises VerificationError when it is beyond what the precision allows, naming output and shape.
    """
    import numpy as np

    largest, state = 0.0, None
    for feeds, expected in read_proof(file):
        first = feeds.pop("first", True)
        found, state = session.run(feeds, None if first else state)
        for port, wanted in expected.items():
            scale = max(float(np.abs(wanted).max()), 1e-6)
            difference = float(np.abs(found[port] - wanted).max()) / scale
            if not difference <= PROOF[recipe.weights]:
                shape = {key: list(value.shape) for key, value in feeds.items()}
                raise VerificationError(
                    f"{name}: {port!r} differs from torch by {difference:.2g} of its largest number",
                    hint=f"{PROOF[recipe.weights]:.0e} is allowed; nothing was published. Please report the model",
                    shapes=shape,
                    variant=name,
                )
            largest = max(largest, difference)
    return largest


def read_proof(file: Path) -> Iterator[tuple[dict[str, Array], Arrays]]:
    """(feeds, reference outputs) from the tracer's .npz with keys `N/in/NAME` and `N/out/NAME`."""
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        for number in sorted({int(key.split("/")[0]) for key in arrays.files}):
            sides: dict[str, dict[str, Any]] = {"in": {}, "out": {}}
            for key in arrays.files:
                index, side, name = key.split("/", 2)
                if int(index) == number:
                    sides[side][name] = arrays[key]
            yield sides["in"], sides["out"]


def read_batches(file: Path) -> Iterator[Arrays]:
    """The feeds of an .npz with keys `N/NAME`."""
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        for number in sorted({int(key.split("/")[0]) for key in arrays.files}):
            names = [key for key in arrays.files if key.split("/")[0] == str(number)]
            yield {key.split("/", 1)[1]: arrays[key] for key in names}


def plain(variant: Variant, traced: str) -> Variant:
    """The same graph before quantizing, on the same target."""
    (graph,) = variant.graphs
    return replace(variant, recipe=Recipe(), graphs=(replace(graph, path=traced),))


def latency(model: Model, items: list[Any]) -> float:
    """Milliseconds for one item from text to numbers: the median of several rounds over a few samples, warmed up.

    Of a decoder, for one token of an answer.
    """
    import statistics

    if "generate" in model.methods:
        room = max(1, int(model.bundle.settings["context_length"]) - TOKENS)
        prompt: list[int] = min(model.tokens(items, truncate=True), key=len)[:room].tolist()
        took = model.generate(prompt, max_new_tokens=TOKENS, min_new_tokens=TOKENS).timings
        return round(took.get("tpot", took["ttft"]) * 1e3, 3)
    timed = items[:TIMED]
    for item in timed:
        model.numbers([item], truncate=True)
    seconds = []
    for _ in range(ROUNDS):
        for item in timed:
            start = time.perf_counter()
            model.numbers([item], truncate=True)
            seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds) * 1e3, 3)


def as_item(item: Any) -> Any:
    """A sample as JSON gave it back: a pair is a tuple, and JSON knows only lists."""
    return tuple(item) if isinstance(item, list) else item


def compared(
    bundle: Bundle, items: Sequence[Any], reference: Sequence[Array], found: Sequence[Array]
) -> tuple[Sequence[Array], Sequence[Array]]:
    """What of the answers tells whether a variant is still the model: all, but of series what comes late in long ones,
    as errors add up in a state."""
    if bundle.ingest != "series":
        return reference, found
    return series.late(items, reference), series.late(items, found)


def check(variant: Variant, agreement: Measure, limit: float | None, usual: Mapping[str, float] = BUDGET) -> None:
    """Raise VerificationError where the variant lost more than its budget, or than `limit`."""
    weights = variant.recipe.weights
    budget = limit if limit is not None and weights in QUANTIZED else usual[weights]
    if agreement.loss <= budget:
        return
    raise VerificationError(
        f"{variant.name} lost too much: {agreement.metric} is {agreement.value:.4f}, "
        f"a loss of {agreement.loss:.4f} where {budget:.4f} is allowed",
        hint="nothing was published; use --precision fp32, or allow more with --max-accuracy-loss",
        variant=variant.name,
        loss=agreement.loss,
        allowed=budget,
    )


def sentence(name: str, figures: dict[str, Any]) -> str:
    """What was measured, for a person."""
    size, latency = size_text(figures["bytes"]), f"{figures['milliseconds']:.2f} ms"
    before = ""
    if "fp32_milliseconds" in figures:
        before = f" (fp32: {size_text(figures['fp32_bytes'])}, {figures['fp32_milliseconds']:.2f} ms)"
    return f"{name}: {figures['metric']} {figures['agreement']:.5f}, {size}, {latency}{before}"


def tolerance(variant: Variant, answers: Sequence[Array]) -> float:
    """How far a variant's outputs may move on another device, absolute: a share of its largest number.

    Another processor sums in another order, and rounds an activation to the neighbouring int8 step now and then.
    """
    import numpy as np

    largest = max((float(np.abs(array).max(initial=0.0)) for array in answers), default=0.0)
    return max(largest, 1e-6) * {"fp32": 1e-3, "bf16": 6e-2}.get(variant.recipe.weights, 2e-1)


def allowed(loss: float) -> float:
    """How large a golden's loss may get on another device, given what it was when the bundle was made."""
    return loss * 2 + 1e-3
