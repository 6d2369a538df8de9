"""The memory forecast of a run before it, and the energy that it took.

Knows no subject; measures nothing of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import Bundle, Variant
from edgekit.errors import ResourceError, UnsupportedError
from edgekit.forecast import fit, states
from edgekit.forecast import forecast as foretold
from edgekit.measuring import energy
from edgekit.reporting.record import Energy, Forecast

if TYPE_CHECKING:
    from edgekit.measuring.configuration import Test

LENGTH = 128  # tokens of a text, samples of a series: what an encoder's arena is forecast for


def forecast(bundle: Bundle, variant: Variant, test: Test, threads: int) -> Forecast | None:
    """What a fresh process takes that runs the test; None on a target that nobody has measured."""
    try:
        found = foretold(bundle, variant, batch=test.batch, tokens=test.tokens or LENGTH, threads=threads)
    except UnsupportedError:
        return None
    if not test.depth:
        return found
    # What was read before is kept, and each run goes on from a copy.
    before = sum(states(graph, 1, test.tokens) for graph in variant.graphs)
    return replace(found, arena=found.arena + before, total=found.total + before)


def too_large(bundle: Bundle, variant: Variant, test: Test, limit: int) -> str:
    """Why a test that needs more than `limit` bytes is not run, and what of it would fit."""
    try:
        fit(bundle, variant, limit, batch=test.batch, tokens=test.tokens or LENGTH)
    except ResourceError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"it was expected to take more than the {limit} bytes that are allowed"


@dataclass
class Meter:
    """The energy of several blocks of work, added up."""

    csv: Path | None
    gpu: bool = False
    blocks: list[Energy] = field(default_factory=list)

    @contextmanager
    def block(self, per: str, count: Callable[[], int]) -> Iterator[None]:
        """Metered; `count()` afterwards: how many of `per` were made in it."""
        with energy.meter(self.csv, gpu=self.gpu) as meter:
            yield
        if made := count():
            self.blocks.append(meter.energy(per, made))

    def total(self) -> Energy | None:
        """Of all blocks; that of the first that was not metered, where one was not; None of no blocks."""
        for block in self.blocks:
            if block.joules is None or not block.each:
                return block
        if not self.blocks:
            return None
        joules = sum(block.joules or 0.0 for block in self.blocks)
        made = sum((block.joules or 0.0) / (block.each or 1.0) for block in self.blocks)
        first = self.blocks[0]
        return Energy(joules=joules, per=first.per, each=joules / made, source=first.source)
