"""What is known before and around a measurement, asked in one place: the machine, its energy, its bandwidth, and what
a run is expected to take.

Knows no subject; measures nothing of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core import Bundle, Progress, Variant
from edgekit.errors import ResourceError
from edgekit.record import Energy, Environment, Forecast, Record

if TYPE_CHECKING:
    from edgekit.measuring.configuration import Test

SECONDS, QUICK = 1.0, 0.2  # of reading memory


def environment(load_before: float, bandwidth: float | None) -> Environment:
    from edgekit.measuring.environment import describe

    return describe(load_before, bandwidth)


def bandwidth(threads: int, *, quick: bool) -> float:
    from edgekit.measuring.bandwidth import read_bandwidth

    return read_bandwidth(threads, QUICK if quick else SECONDS)


def forecast(bundle: Bundle, variant: Variant, test: Test, threads: int) -> Forecast:
    from edgekit.measuring.forecast import forecast

    return forecast(bundle, variant, batch=test.batch, tokens=test.tokens or LENGTH, threads=threads)


def prepared(model: str, targets: Sequence[str], precisions: Sequence[str], folder: Path, say: Progress) -> Path:
    """The bundle's folder, exported into `folder` first where `model` is none."""
    from edgekit.measuring.prepare import prepared

    return prepared(model, targets=targets, precisions=precisions, folder=folder, progress=say)


def too_large(bundle: Bundle, variant: Variant, test: Test, limit: int) -> str:
    """Why a test that needs more than `limit` bytes is not run, and what of it would fit."""
    from edgekit.measuring.forecast import fit

    try:
        fit(bundle, variant, limit, batch=test.batch, tokens=test.tokens or LENGTH)
    except ResourceError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"it was expected to take more than the {limit} bytes that are allowed"


def remember(record: Record) -> None:
    """So that `--target auto` knows what is fast on this device."""
    from edgekit import measured

    measured.remember(record)


LENGTH = 128  # tokens of a text, samples of a series: what an encoder's arena is forecast for


@dataclass
class Meter:
    """The energy of several blocks of work, added up."""

    csv: Path | None
    blocks: list[Energy] = field(default_factory=list)

    @contextmanager
    def block(self, per: str, count: Callable[[], int]) -> Iterator[None]:
        """Metered; `count()` afterwards: how many of `per` were made in it."""
        from edgekit.measuring import energy

        with energy.meter(self.csv) as meter:
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
