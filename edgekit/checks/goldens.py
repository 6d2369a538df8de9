"""Goldens: sample inputs in a bundle, with what the graphs are fed and the outputs that are expected.

The file of a bundle's `Goldens` holds for input number N the arrays `encoded:N` (token ids, pixels' bits),
`reference:N` (the unquantized model's outputs) and, by the variant's name, `VARIANT:N`; besides `input:K`, the arrays
that stand in the inputs (see `edgekit.checks.samples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import array_file

if TYPE_CHECKING:
    from edgekit.core import Array, Variant

COUNT = 8  # samples that a bundle keeps with their outputs
FILE = "goldens.npz"
ENCODED, REFERENCE = "encoded", "reference"


def read_arrays(file: Path, names: Sequence[str], count: int) -> dict[str, list[Array]]:
    """`count` arrays of each of these names, as `write_arrays` wrote them. Raises BundleError."""
    arrays = array_file.read_npz(file, [f"{name}:{number}" for name in names for number in range(count)])
    return {name: [arrays[f"{name}:{number}"] for number in range(count)] for name in names}


def write_arrays(file: Path, arrays: Mapping[str, Sequence[Array]]) -> None:
    """The counterpart of `read_arrays`; the same arrays give the same bytes."""
    import numpy as np

    named: dict[str, Any] = {f"{name}:{n}": array for name, of in arrays.items() for n, array in enumerate(of)}
    np.savez(file, **named)


def largest_difference(expected: Sequence[Array], outputs: Sequence[Array]) -> float:
    """The largest absolute difference over all arrays; infinite where shapes differ or a number is not finite."""
    import numpy as np

    largest = 0.0
    for a, b in zip(expected, outputs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        difference = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
        largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def tolerance(variant: Variant, outputs: Sequence[Array]) -> float:
    """How far a variant's outputs may move on another device, absolute: a share of its largest number.

    Another processor sums in another order, and rounds an activation to the neighbouring int8 step now and then.
    """
    import numpy as np

    largest = max((float(np.abs(array).max(initial=0.0)) for array in outputs), default=0.0)
    return max(largest, 1e-6) * {"fp32": 1e-3, "bf16": 6e-2}.get(variant.recipe.weights, 2e-1)


def allowed_loss(loss: float) -> float:
    """How large the loss may get on another device, given what it was when the bundle was made."""
    return loss * 2 + 1e-3
