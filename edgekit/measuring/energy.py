"""Measure energy in joules: the processor's counter (RAPL), a GPU's (NVML), or the log of a power meter.

    with meter() as counted:
        ...
    counted.energy("token", 640)    # Energy(joules=12.3, per="token", each=0.019, source="RAPL package")

A counter counts all that runs, ours or not. Where there is none, or none that may be read, the Energy says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.machine.device import ROOT
from edgekit.measuring.nvml import NVML, gpu_millijoules
from edgekit.measuring.power_meter import Interval, joules_of
from edgekit.reporting.record import Energy

ZONES = "sys/class/powercap"
READ_ALLOWED = "sudo chmod a+r /sys/class/powercap/*/energy_uj"
# A counter goes around, after a quarter of an hour at 300 W. More than this no package takes: what was counted in a
# time in which it can have gone around twice means nothing.
MOST_WATTS = 600.0

# A counter now, in units of its own; of a processor one for each package.
Read = Callable[[], Mapping[str, int]]


class Unread(Exception):
    """No figure, and why: it is told beside the figures that there are."""


@dataclass(frozen=True)
class Counter:
    """`ranges`: where each of its numbers goes around to zero, none where it never does. `unit`: joules."""

    source: str
    unit: float
    read: Read
    ranges: Mapping[str, int]

    def joules(self, before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> float:
        """Raises Unread for a time in which a number may have gone around twice."""
        found = 0
        for name, was in before.items():
            around = self.ranges.get(name)
            if around is not None and seconds * MOST_WATTS > around * self.unit:
                raise Unread(f"{seconds:.0f} seconds are too long for {self.source}: its counter goes around")
            found += after[name] - was + (around if around is not None and after[name] < was else 0)
        return found * self.unit


class Metered:
    """What was counted between the ends of a `with meter()`."""

    def __init__(self) -> None:
        self.joules: float | None = None
        self.source = self.why = ""

    def energy(self, per: str, count: int) -> Energy:
        """`count` of `per` ("run", "token") were done meanwhile."""
        each = None if self.joules is None or count < 1 else self.joules / count
        return Energy(joules=self.joules, per=per, each=each, source=self.source, why=self.why)


@contextmanager
def meter(csv: Path | None = None, *, gpu: bool = False, root: Path = ROOT, library: str = NVML) -> Iterator[Metered]:
    """Count what is used until the end of the block: by the meter that writes `csv`, else by the GPU's or the
    processor's counter. `csv` is read when the block has ended, and must reach that far by then.

    Raises InputError for a CSV that is none of a meter; what is true and no figure is `why` of the Energy.
    """
    found = Metered()
    if csv is not None:
        begun = time.time()
        yield found
        found.source = csv.name
        found.joules, found.why = joules_of(csv, Interval(begun, time.time()))
        return
    try:
        counter = _gpu(library) if gpu else _rapl(root)
        before, begun = counter.read(), time.perf_counter()
    except Unread as unread:
        found.why = str(unread)
        yield found
        return
    yield found
    try:
        after = counter.read()
        found.joules = counter.joules(before, after, time.perf_counter() - begun)
        found.source = counter.source
    except Unread as unread:
        found.why = str(unread)


def _rapl(root: Path) -> Counter:
    """The packages of this machine. Powercap counts a zone's children in the zone, so these are left out.

    https://docs.kernel.org/power/powercap/powercap.html. Raises Unread.
    """
    zones = [zone for zone in sorted((root / ZONES).glob("intel-rapl:*")) if zone.name.count(":") == 1]
    packages = {zone.name: zone for zone in zones if _text(zone / "name").startswith("package")}
    if not packages:
        raise Unread("the kernel shows no energy counter (RAPL), as on most virtual machines and on Arm")

    def read() -> Mapping[str, int]:
        return {name: int(_text(zone / "energy_uj")) for name, zone in packages.items()}

    ranges = {name: int(_text(zone / "max_energy_range_uj")) for name, zone in packages.items()}
    return Counter("RAPL package", 1e-6, read, ranges)


def _gpu(library: str) -> Counter:
    """The first GPU. Raises Unread."""

    def read() -> Mapping[str, int]:
        try:
            return {"0": gpu_millijoules(library)}
        except OSError as error:
            raise Unread(str(error)) from error

    return Counter("NVML", 1e-3, read, {})


def _text(file: Path) -> str:
    """Raises Unread with the remedy."""
    try:
        return file.read_text(encoding="ascii").strip()
    except PermissionError:
        raise Unread(f"the energy counter may only be read by root: {READ_ALLOWED}") from None
    except OSError as error:
        raise Unread(f"{file.name} of {file.parent.name} cannot be read: {error.strerror}") from error
