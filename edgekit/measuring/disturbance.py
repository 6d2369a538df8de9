"""Detect disturbances of a measurement: system counters before and after, and a thread that notices standstills.

    with Watch() as watch:
        ...                          # what is timed
    tell([watch.seen, ...])          # ("other programs used 0.8 cores",), () if nothing was

A figure that was taken beside other work, on a stolen core, at a lower clock or across a pause says something about
that, too. Reads /proc and /sys below a root; what a kernel does not tell is not looked at.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path("/")
BEAT = 0.1  # seconds between two looks at the clock
SHORTEST = 0.2  # seconds: /proc/stat counts in hundredths, and says nothing of less

# What was seen -> from how much on it is told, and in which words.
TOLD = {
    "others": (0.1, "other programs used {:.1f} cores"),
    "steal": (0.01, "the hypervisor took {:.0%} of the time"),
    "stopped": (0.3, "its process was stopped for {:.1f} s"),
    "slept": (0.1, "the machine slept for {:.1f} s"),
    "clock": (0.05, "the clock was set by {:.2f} s"),
    "throttled": (1.0, "the processor throttled itself {:.0f} times"),
    "slower": (0.15, "the cores' clock fell by {:.0%}"),
}
RATES = ("others", "steal")  # by the second; of all others the most counts, not the sum

Seen = Mapping[str, float]  # seconds ("wall"), and by kind what was counted in them


@dataclass(frozen=True)
class Counters:
    """All at one time; seconds but for counts. None: not told here."""

    wall: float  # monotonic
    real: float  # the clock that people set
    awake: float  # monotonic, with the time that the machine slept
    own: float  # CPU seconds of this process
    busy: float | None  # CPU seconds of all cores, for everybody
    stolen: float | None
    throttles: int | None
    hertz: int | None  # of the fastest core that we may use

    @classmethod
    def read(cls, root: Path = ROOT) -> Counters:
        busy, stolen = _machine(root)
        return cls(
            wall=time.monotonic(),
            real=time.time(),
            awake=time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic(),
            own=time.process_time(),
            busy=busy,
            stolen=stolen,
            throttles=_throttles(root),
            hertz=_hertz(root),
        )


@dataclass
class Watch:
    """Notices what goes on beside a block of work. `before`: the clock rate that blocks before this one ended with."""

    root: Path = ROOT
    before: int | None = None
    seen: dict[str, float] = field(default_factory=dict)
    hertz: int | None = None
    _longest: float = 0.0

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._start = Counters.read(self.root)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        end = Counters.read(self.root)
        self.hertz = max(filter(None, (end.hertz, self.before)), default=None)
        self.seen = compare(self._start, end, cores=os.cpu_count() or 1) | {"stopped": self._longest}
        if end.hertz and self.before:
            self.seen["slower"] = 1 - end.hertz / self.before

    def _beat(self) -> None:
        """The longest time between two beats, less the beat: a stopped process has none, whatever stopped it."""
        last = time.monotonic()
        while not self._over.wait(BEAT):
            now = time.monotonic()
            self._longest, last = max(self._longest, now - last - BEAT), now


def compare(start: Counters, end: Counters, cores: int) -> dict[str, float]:
    """What was counted between the two, by kind; without what is not told here. Seconds of CPU time, or a number."""
    wall = end.wall - start.wall
    slept = (end.awake - start.awake) - wall
    found = {"wall": wall, "slept": slept, "clock": abs(end.real - start.real - wall - slept)}
    if start.throttles is not None and end.throttles is not None:
        found["throttled"] = float(end.throttles - start.throttles)
    if start.busy is not None and end.busy is not None:
        found["others"] = end.busy - start.busy - (end.own - start.own)
    if start.stolen is not None and end.stolen is not None:
        found["steal"] = (end.stolen - start.stolen) / cores
    return found


def tell(blocks: Sequence[Seen]) -> tuple[str, ...]:
    """What disturbed some blocks of one row, a sentence a kind. Rates are those over all blocks, as one may be too
    short to tell."""
    wall = sum(block["wall"] for block in blocks)
    told = []
    for kind, (least, words) in TOLD.items():
        amounts = [block[kind] for block in blocks if kind in block]
        if not amounts or (kind in RATES and wall < SHORTEST):
            continue
        amount = sum(amounts) / wall if kind in RATES else max(amounts)
        if amount >= least:
            told.append(words.format(amount))
    return tuple(told)


def _machine(root: Path) -> tuple[float | None, float | None]:
    """CPU seconds since boot: of all cores without idling, and those stolen. proc_stat(5)."""
    words = _read(root / "proc/stat").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None, None
    user, nice, system, _, _, irq, soft, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
    return user + nice + system + irq + soft, steal


def _throttles(root: Path) -> int | None:
    """How often all cores have throttled themselves since boot; x86 only."""
    counts = [_read(file) for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")]
    return sum(int(count) for count in counts if count.strip().isdecimal()) if counts else None


def _hertz(root: Path) -> int | None:
    """Of the fastest core now. The kernel counts in kHz."""
    rates = [_read(file).strip() for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    return max((int(rate) * 1000 for rate in rates if rate.isdecimal()), default=None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
