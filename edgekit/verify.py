"""Does a bundle still give, on this device, what it gave when it was made?

Runs the goldens through each variant and compares twice: with what that variant gave when it was made (a changed
engine, processor or file shows here), and with the reference model's answers (the gate's own measure).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Check, Measure
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle, Variant
    from edgekit.model import Model


def verify(folder: str | Path, *, targets: Sequence[str] = ()) -> list[Check]:
    """Every variant that this machine can run, or those of `targets`, held against the bundle's goldens.

    A check that fails is in the list, not raised. Raises BundleError when the bundle is bad or has no goldens,
    DeviceError when a target that was asked for is not on this machine, or none of the bundle's is.
    """
    from edgekit.bundle import manifest
    from edgekit.variants import choose, probe

    found = manifest.read(Path(folder), verify="always")
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
    from edgekit import device
    from edgekit.model import Model

    start = time.perf_counter()
    with Model(bundle, variant, device.threads()) as model:
        found = check(model)
    return replace(found, seconds=time.perf_counter() - start)


def check(model: Model) -> Check:
    """A model that is open, held against its bundle's goldens, which it has. Raises BundleError."""
    from edgekit import registry
    from edgekit.workbench.gate import as_item

    bundle, variant = model.bundle, model.variant
    assert bundle.goldens is not None
    names = ("reference", "tokens", variant.name)
    arrays = read_arrays(bundle.folder / bundle.goldens.file, names, len(bundle.goldens.inputs))
    items = [as_item(item) for item in bundle.goldens.inputs]
    start = time.perf_counter()
    tokens, found = model.tokens(items, truncate=True), model.numbers(items, truncate=True)
    seconds = time.perf_counter() - start
    agreement: Measure = registry.find("heads", bundle.head).compare(arrays["reference"], found, bundle.settings)
    difference = worst(arrays[variant.name], found)
    tolerance, allowed = bundle.goldens.tolerances[variant.name], bundle.goldens.losses[variant.name]
    why = _why(tokens, arrays["tokens"], difference, tolerance, agreement, allowed)
    return Check(variant.name, not why, difference, tolerance, agreement, allowed, seconds, why)


def _why(
    tokens: Sequence[Array],
    expected: Sequence[Array],
    difference: float,
    tolerance: float,
    agreement: Measure,
    allowed: float,
) -> str:
    """What is out of tolerance, the nearest to the cause first; empty if nothing is."""
    for number, (found, wanted) in enumerate(zip(tokens, expected)):
        if found.tolist() != wanted.tolist():
            return f"golden {number} is read in another way than when the bundle was made"
    if not difference <= tolerance:
        return f"outputs moved by {difference:.2g}, and {tolerance:.2g} is allowed"
    if not agreement.loss <= allowed:
        return (
            f"{agreement.metric} is {agreement.value:.4f}: a loss of {agreement.loss:.2g}, and {allowed:.2g} is allowed"
        )
    return ""


def read_arrays(file: Path, names: Sequence[str], count: int) -> dict[str, list[Array]]:
    """`count` arrays of each of these names, as `write_arrays` wrote them. Raises BundleError."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: [arrays[f"{name}:{number}"] for number in range(count)] for name in names}
    except (ValueError, KeyError, OSError) as error:
        hint = "export the model again"
        raise BundleError(f"{file.name} does not hold what it should", hint=hint, cause=str(error)) from error


def write_arrays(file: Path, arrays: dict[str, Sequence[Array]]) -> None:
    """The counterpart of `read_arrays`; the same arrays give the same bytes."""
    import numpy as np

    named: dict[str, Any] = {f"{name}:{n}": array for name, of in arrays.items() for n, array in enumerate(of)}
    np.savez(file, **named)


def worst(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest absolute difference over all arrays; infinite where shapes differ or a number is not finite."""
    import numpy as np

    largest = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        difference = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
        largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest
