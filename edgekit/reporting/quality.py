"""How good a variant's outputs are: the task's metric on held-out inputs, and how near they are to the reference.

quality = of(row, accuracy)
quality.text                       # "98.0 % recall at 1", "cosine 0.9959"
ratio(quality, other)              # "error 4.1 times smaller"
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.reporting import number_text
from edgekit.reporting.record import Accuracy, Row

EXACT = 1e-5  # a loss below this is rounding
NOTABLE = 1.5  # errors that differ by less are called similar


@dataclass(frozen=True)
class Quality:
    """`loss`: distance from the reference's outputs, 0 is equal; None if no known outputs were compared."""

    metric: str
    text: str
    loss: float | None
    trained: float | None = None  # the metric of the trained weights
    value: float | None = None


def of(row: Row, accuracy: Accuracy | None) -> Quality | None:
    """The quality of a row's variant; None if nothing was checked. A task's metric is shown before an agreement."""
    measure = row.check.agreement if row.check and math.isfinite(row.check.agreement.value) else None
    loss = measure.loss if measure and math.isfinite(measure.loss) else None
    if accuracy:
        name = accuracy.metric.replace("_", " ")
        return Quality(name, f"{number_text.share(accuracy.value)} {name}", loss, accuracy.trained, accuracy.value)
    if measure is None:
        return None
    return Quality(measure.metric, number_text.measure(measure.metric, measure.value), loss)


def ratio(one: Quality | None, other: Quality | None) -> str:
    """How much smaller or larger the error of `one` is than that of `other`, in words; "" if nobody knows."""
    if one is None or other is None or one.loss is None or other.loss is None:
        return ""
    if max(one.loss, other.loss) < EXACT:
        return "equally exact"
    if one.loss < EXACT:
        return "practically without error"
    if other.loss < EXACT:
        return "less exact"
    smaller = one.loss < other.loss
    times = max(one.loss, other.loss) / min(one.loss, other.loss)
    if times < NOTABLE:
        return "a similar error"
    return (
        f"error {number_text.figure(times) if times < 10 else round(times)} times {'smaller' if smaller else 'larger'}"
    )
