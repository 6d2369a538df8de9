"""Describe this machine: processor, CPU features, and the cores and memory that this process may use.

Read from /proc and /sys/fs/cgroup (v1, v2 and both at once); every function takes the root under which these lie.
Knows no engine: whether a target can run here is `edgekit.targets.X.probe`. What cannot be read is None or empty,
never a guess.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.machine import cpu_features as features
from edgekit.machine import system_calls

ROOT = Path("/")

CPUS = "sys/devices/system/cpu"
# How the firmware of virtual machines begins to name its maker; Arm processors do not tell what x86 ones do.
VIRTUAL = ("QEMU", "VMware", "Xen", "innotek", "Parallels", "Google Compute Engine", "Virtual Machine", "KVM")
ASK_NVIDIA = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
PATIENCE = 5  # seconds for the answer: a driver that hangs is not waited for


@dataclass(frozen=True)
class Device:
    """Sizes in bytes. `threads` is how many an engine should use unless the user says otherwise."""

    system: str
    kernel: str
    libc: str
    machine: str
    cpu: str
    features: tuple[str, ...]
    features_why: str  # why `features` is empty
    cores: int  # that the machine has
    affinity: int  # that this process may run on
    quota: float | None  # cores' worth of time that the cgroup grants
    threads: int
    memory: int | None
    memory_limit: int | None
    available: int | None


def describe(root: Path = ROOT) -> Device:
    """This machine, read afresh."""
    known = tuple(sorted(cpu_features(root)))
    return Device(
        system=platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()).strip(),
        machine=platform.machine(),
        cpu=cpu_model(root),
        features=known,
        features_why="" if known else _why_no_features(root),
        cores=os.cpu_count() or 1,
        affinity=affinity(),
        quota=cpu_quota(root),
        threads=threads(root),
        memory=total_memory(root),
        memory_limit=memory_limit(root),
        available=available_memory(root),
    )


def threads(root: Path = ROOT) -> int:
    """How many threads have a core's worth of time each: min(affinity, ceil(cgroup quota)), at least 1."""
    quota = cpu_quota(root)
    return affinity() if quota is None else max(1, min(affinity(), math.ceil(quota)))


def affinity() -> int:
    """How many cores the scheduler may put this process on: a cpuset or `taskset` makes it fewer than there are."""
    return system_calls.cores()


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time per period that the tightest cgroup above this process grants; None for no limit.

    v2: `cpu.max` holds "QUOTA PERIOD" or "max PERIOD". v1: `cpu.cfs_quota_us` (-1: none) over `cpu.cfs_period_us`.
    """
    quotas = []
    for folder in _cgroups(root, "cpu"):
        words = (_read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us")).split()
        words += _read(folder / "cpu.cfs_period_us").split()
        quota, period = [*map(_number, words), None, None][:2]
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """The instruction sets that matter here, by the kernel's names; empty where the kernel does not tell."""
    return features.read(root, platform.machine())


def is_x86() -> bool:
    """Whether this Python runs on x86-64."""
    return platform.machine() in features.X86_MACHINES


def is_arm() -> bool:
    """Whether this Python runs on 64-bit Arm."""
    return platform.machine() in features.ARM_MACHINES


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name as it calls itself; on Arm the name of its first core; else the architecture."""
    name = features.arm_core(root) if is_arm() else features.cpuinfo(root).get("model name")
    return name or features.brand() or platform.processor() or platform.machine()


def governor(root: Path = ROOT) -> str | None:
    """How the kernel chooses frequencies, "performance" or the like; where cores differ, all of it."""
    found = {_read(file).strip() for file in (root / CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""})) or None


def frequencies(root: Path = ROOT) -> tuple[int, ...]:
    """Hz of each core now: the kernel's figure, else /proc/cpuinfo's. Many virtual machines only show a nominal one."""
    files = sorted((root / CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=lambda file: _core(file.parts[-3]))
    found = [number * 1000 for file in files if (number := _number(_read(file)))]
    if found:
        return tuple(found)
    lines = (line.partition(":") for line in _read(root / "proc/cpuinfo").splitlines())
    return tuple(round(float(value) * 1e6) for key, _, value in lines if key.strip() == "cpu MHz" and _is_float(value))


def hypervisor(root: Path = ROOT) -> str | None:
    """What this machine is a guest of, as well as it is told; None on hardware of its own."""
    if kind := _read(root / "sys/hypervisor/type").strip():
        return kind
    names = [_read(root / "sys/class/dmi/id" / name).strip() for name in ("sys_vendor", "product_name")]
    named = " ".join(filter(None, names))
    if "hypervisor" in features.cpuinfo(root).get("flags", "").split():
        return named or "one that does not give its name"
    return named if any(name.startswith(VIRTUAL) for name in names) else None


def throttled(root: Path = ROOT) -> int | None:
    """How often cores were slowed down for their heat since the machine started; None where nothing counts it."""
    files = (root / CPUS).glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [number for file in files if (number := _number(_read(file))) is not None]
    return sum(counts) if counts else None


def gpus(root: Path = ROOT) -> tuple[str, ...]:
    """NVIDIA's, by name with the driver's version."""
    models = [_read(file) for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))]
    names = [
        line.partition(":")[2].strip() for text in models for line in text.splitlines() if line.startswith("Model")
    ]
    driver = next((word for word in _read(root / "proc/driver/nvidia/version").split() if word.count(".") >= 1), "")
    if names or root != ROOT:
        return tuple(f"{name}, driver {driver or 'unknown'}" for name in names)
    try:
        done = subprocess.run(ASK_NVIDIA, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    pairs = (line.rpartition(",") for line in done.stdout.splitlines())
    return tuple(f"{name.strip()}, driver {version.strip()}" for name, _, version in pairs if name)


def total_memory(root: Path = ROOT) -> int | None:
    """Bytes of RAM that the machine has."""
    return _meminfo(root).get("MemTotal")


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the tightest cgroup above this process allows; None where none allows less than the RAM there is."""
    limits = [limit for limit, _ in _memory_cgroups(root)]
    return min(limits, default=None)


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes that can be had now without swapping: the kernel's estimate, and no more than any cgroup has left."""
    free = _meminfo(root).get("MemAvailable")
    left = [max(0, limit - used) for limit, used in _memory_cgroups(root)]
    return min([*left, *([] if free is None else [free])], default=None)


def _memory_cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of every cgroup that limits; page cache that can be dropped does not count as used."""
    most = total_memory(root) or math.inf  # v1 writes "no limit" as a number near 2^63
    for folder in _cgroups(root, "memory"):
        limit = _number(_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes"))
        used = _number(_read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")) or 0
        stat = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
        cache = _number(stat.get("total_inactive_file") or stat.get("inactive_file") or "") or 0
        if limit is not None and 0 <= limit < most:
            yield limit, max(0, used - cache)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's cgroup for a controller, from its own up to the mount point: all of them limit.

    /proc/self/cgroup gives the path, /proc/self/mountinfo where it is mounted and from which path on: in a container
    these often disagree, and then only the mount point is visible. cgroups(7), proc_pid_mountinfo(5).
    """
    inside = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        inside.update(dict.fromkeys(controllers.split(","), own))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        is_ours = controller in options.split(",") if kind == "cgroup" else controller not in inside
        if kind not in ("cgroup", "cgroup2") or not is_ours:
            continue
        start, mount = fields.split()[3:5]
        home = root / mount.lstrip("/")
        path = Path(inside.get(controller if kind == "cgroup" else "", "/"))
        below = path.relative_to(start) if path.is_relative_to(start) and ".." not in path.parts else Path()
        return [home / below, *(home / parent for parent in below.parents)]
    return []


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes; the kernel writes kibibytes and calls them kB."""
    pairs = (line.split() for line in _read(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs if len(words) == 3}


def _why_no_features(root: Path) -> str:
    if not (root / "proc/cpuinfo").is_file():
        return f"{platform.system()} has no /proc/cpuinfo"
    return "the kernel names none of the instruction sets that EdgeKit knows"


def _core(folder: str) -> int:
    return int(folder.removeprefix("cpu"))


def _is_float(word: str) -> bool:
    return word.strip().replace(".", "", 1).isdecimal()


def _number(word: str) -> int | None:
    try:
        return int(word)
    except ValueError:
        return None  # "max", or a file that is not there


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not this kernel, not this cgroup version, or not ours to read
