"""Whether an item's outputs depend on the other items of its batch, or on their order.

The same samples are computed alone, together, and together in reverse order, and the outputs compared. Knows no task:
`Model.together` computes several samples side by side as the task's methods do it for a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.core import Array
    from edgekit.model import Model

NEAR = 5e-3  # relative difference that counts as none: a cosine of 0.99999 between vectors of equal length
SAME = 1e-5  # the task's loss that counts as none


@dataclass(frozen=True)
class Invariance:
    """How far outputs in a batch are from the same items' outputs alone.

    `difference`: the largest of any item, as a share of its outputs' length (2-norm). `loss`: by the task's `compare`,
    of the worse order.
    """

    difference: float
    loss: float

    @property
    def holds(self) -> bool:
        return self.difference <= NEAR and self.loss <= SAME

    @property
    def facts(self) -> dict[str, bool | float]:
        """What a manifest says of a variant."""
        return {"batch_invariant": self.holds, "batch_difference": self.difference}


def measure(model: Model, samples: Sequence[Any]) -> Invariance:
    """The open model's. Raises what its runs raise."""
    items = list(samples)
    alone = [model.outputs([one])[0] for one in items]
    orders = model.together(items), model.together(items[::-1])[::-1]
    return Invariance(
        max(largest_difference(alone, outputs) for outputs in orders),
        max(model.compare(alone, outputs, model.bundle.settings).loss for outputs in orders),
    )


def largest_difference(alone: Sequence[Array], together: Sequence[Array]) -> float:
    """Of any item, as a share of its length alone; infinite where shapes differ or a number is not finite."""
    import numpy as np

    largest = 0.0
    for a, b in zip(alone, together, strict=True):
        if a.shape != b.shape:
            return float("inf")
        wanted, change = a.astype(np.float64), b.astype(np.float64) - a
        share = float(np.linalg.norm(change) / max(float(np.linalg.norm(wanted)), 1e-12))
        largest = max(largest, share if np.isfinite(share) else float("inf"))
    return largest


def words(invariant: bool | None, difference: float | None) -> str:
    """For a table: "yes", "differs by 0.031", or "-" where nobody measured it."""
    if invariant is None or difference is None:
        return "-"
    return "yes" if invariant else f"differs by {difference:.2g}"


def allowed(measured: Mapping[str, Any]) -> float:
    """How far a variant's outputs in a batch may be from those alone on another device, given its facts here."""
    return 2 * float(measured.get("batch_difference", float("inf"))) + NEAR
