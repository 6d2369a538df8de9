"""Verify a bundle on this device: compare its outputs with its goldens.

Runs the goldens through each variant and compares twice: with what that variant gave when it was made (a changed
engine, processor or file shows here), and with the reference model's answers (the gate's own measure).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.checks import invariance, samples
from edgekit.checks.goldens import ENCODED, REFERENCE, largest_difference, read_arrays
from edgekit.core import Check, Measure
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Target, Variant
    from edgekit.model import Model


def verify(folder: str | Path, *, targets: Sequence[Target] = ()) -> list[Check]:
    """Compare every variant that this machine can run, or those of `targets`, with the bundle's goldens.

    A check that fails is in the list, not raised. Raises BundleError when the bundle is bad or has no goldens,
    DeviceError when a target that was asked for is not on this machine, or none of the bundle's is.
    """
    from edgekit.bundle import manifest, safe_files
    from edgekit.variants import choose, probe

    found = manifest.read(safe_files.path_of(folder, "folder"), verify="always")
    if found.goldens is None:
        raise BundleError(f"{found.name} has no goldens to verify", hint="export the model again")
    for target in targets:
        choose(found, target, None)
    if not targets:
        choose(found, "auto", None)
    chosen = [v for v in found.variants if v.target in targets or (not targets and probe(v.target) is None)]
    return [_opened(found, variant) for variant in chosen]


def work(payload: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The worker's job: verify a folder in this fresh process."""
    import msgspec

    return [msgspec.to_builtins(check) for check in verify(payload["folder"], targets=payload["targets"])]


def _opened(bundle: Bundle, variant: Variant) -> Check:
    from edgekit.machine import device

    kind: type[Model] = registry.task(bundle.task)
    start = time.perf_counter()
    with kind(bundle, variant, device.threads()) as model:
        checked = check(model)
    return replace(checked, seconds=time.perf_counter() - start)


def check(model: Model) -> Check:
    """Hold an open model against its bundle's goldens, which it has. Raises BundleError."""
    bundle, variant = model.bundle, model.variant
    assert bundle.goldens is not None
    file, name = bundle.folder / bundle.goldens.file, variant.name
    inputs = samples.read(file, bundle.goldens.inputs)
    kept = read_arrays(file, (REFERENCE, ENCODED, name), len(inputs))
    start = time.perf_counter()
    encoded, outputs = model.encode(inputs), model.outputs(inputs)
    seconds = time.perf_counter() - start
    agreement = _agreement(model, kept[REFERENCE], outputs)
    difference = largest_difference(kept[name], outputs)
    tolerance, allowed = bundle.goldens.tolerances[name], bundle.goldens.losses[name]
    batch = invariance.measure(model, inputs)
    why = _why(encoded, kept[ENCODED], difference, tolerance, agreement, allowed) or _depends(batch.difference, variant)
    return Check(name, not why, difference, tolerance, agreement, allowed, seconds, why, batch.holds, batch.difference)


def _agreement(model: Model, reference: Sequence[Array], outputs: Sequence[Array]) -> Measure:
    """The task's measure; outputs of another shape than the reference's have nothing in common with it."""
    if all(a.shape == b.shape and a.size for a, b in zip(reference, outputs, strict=True)):
        return model.compare(reference, outputs, model.bundle.settings)
    return Measure("same shape", 0.0, float("inf"))


def _why(
    encoded: Sequence[Array],
    expected: Sequence[Array],
    difference: float,
    tolerance: float,
    agreement: Measure,
    allowed: float,
) -> str:
    """What is out of tolerance, the nearest to the cause first; empty if nothing is."""
    for number, (now, then) in enumerate(zip(encoded, expected)):
        if now.tolist() != then.tolist():
            return f"golden {number} is read in another way than when the bundle was made"
    if not difference <= tolerance:
        return f"outputs moved by {difference:.2g}, and {tolerance:.2g} is allowed"
    if not agreement.loss <= allowed:
        return (
            f"{agreement.metric} is {agreement.value:.4f}: a loss of {agreement.loss:.2g}, and {allowed:.2g} is allowed"
        )
    return ""


def _depends(difference: float, variant: Variant) -> str:
    """What to say where outputs depend on their batch here, and did not, or less, when the bundle was made."""
    allowed = invariance.allowed(variant.measured)
    if difference <= allowed:
        return ""
    return f"outputs differ by {difference:.2g} between an item alone and in a batch, and {allowed:.2g} is allowed"
