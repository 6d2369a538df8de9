"""The memory of this process as the kernel counts it, in bytes.

    phase("loaded")           RSS, PSS, USS and what is no file's, now (/proc/self/smaps_rollup)
    peak()                    the high-water mark of RSS (VmHWM)
    mapped(folder)            what of the files below a folder is in memory by mapping them
    libraries()               what of shared libraries is

proc_pid_smaps(5), proc_pid_status(5). None where this kernel does not tell. `getrusage` is of no use for the peak: a
process inherits that of the one that started it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.reporting.record import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

SELF = Path("/proc/self")
_REGION = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")
_LIBRARY = re.compile(r"\.so(\.\d+)*$")


def phase(name: str, home: Path = SELF) -> Phase:
    """What is held now. Reading takes the kernel about a millisecond for each gigabyte."""
    found = _fields(home / "smaps_rollup")
    own = [found.get(key) for key in ("Private_Clean", "Private_Dirty")]
    return Phase(
        name=name,
        rss=found.get("Rss"),
        pss=found.get("Pss"),
        uss=None if None in own else sum(part for part in own if part is not None),
        anonymous=found.get("Anonymous"),
    )


def highest(home: Path = SELF) -> Phase:
    """The phase "peak": the kernel keeps a mark of RSS, and of nothing else."""
    return Phase(name="peak", rss=peak(home), pss=None, uss=None, anonymous=None)


def peak(home: Path = SELF) -> int | None:
    return _fields(home / "status").get("VmHWM")


def resident(home: Path = SELF) -> int | None:
    """RSS, quicker than `phase`: from the kernel's counters."""
    return _fields(home / "status").get("VmRSS")


def mapped(folder: Path, home: Path = SELF) -> int | None:
    """Bytes of the files below `folder` that are resident because this process has mapped them."""
    below = os.path.realpath(folder) + os.sep
    return _regions(home, lambda file: file.startswith(below))


def libraries(home: Path = SELF) -> int | None:
    """Bytes of shared libraries that are resident. A third more of the same ones are where the kernel keeps their files
    in larger pieces, as it does with files that were just written: it maps a piece at a time.
    """
    return _regions(home, lambda file: _LIBRARY.search(file) is not None)


def _regions(home: Path, wanted: Callable[[str], bool]) -> int | None:
    """Resident bytes of the regions whose file is wanted."""
    try:
        lines = (home / "smaps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    inside, total = False, 0
    for line in lines:
        if region := _REGION.fullmatch(line):
            inside = wanted(region[1])
        elif inside and line.startswith("Rss:"):
            total += _bytes(line)
    return total


def _fields(file: Path) -> dict[str, int]:
    """The lines `Name: 12 kB`; none where there is no such file."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: _bytes(line) for line in lines if line.endswith(" kB")}


def _bytes(line: str) -> int:
    return int(line.split()[-2]) * 1024
