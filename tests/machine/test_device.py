"""The machine as /proc and /sys tell it: from trees made for the purpose, and this one."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.machine import cpu_features, device

GIB = 2**30
V1 = "4:memory:/app/one\n2:cpu,cpuacct:/app/one\n1:name=systemd:/app\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2 = "0::/app/one\n"
V2_MOUNTS = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
MEMINFO = "MemTotal:       8388608 kB\nMemFree:        1 kB\nMemAvailable:   4194304 kB\nHugePages_Total:  0\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def machine(root: Path, cgroup: str, mounts: str, **files: str) -> Path:
    tree(root, {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, "proc/meminfo": MEMINFO})
    return tree(root, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("text", "quota", "threads"),
    [
        ("max 100000", None, 8),
        ("50000 100000", 0.5, 1),
        ("150000 100000", 1.5, 2),
        ("200000 100000", 2.0, 2),
        ("1600000 100000", 16.0, 8),
    ],
)
@pytest.mark.usefixtures("eight_cores")
def test_v2_quota(tmp_path: Path, text: str, quota: float | None, threads: int) -> None:
    root = machine(tmp_path, V2, V2_MOUNTS, **{"app/one/cpu.max": text})
    assert device.cpu_quota(root) == quota
    assert device.threads(root) == threads


@pytest.mark.parametrize(("us", "quota"), [("-1", None), ("50000", 0.5), ("250000", 2.5)])
def test_v1_quota(tmp_path: Path, us: str, quota: float | None) -> None:
    at = "cpu,cpuacct/app/one/"
    root = machine(
        tmp_path, V1, V1_MOUNTS, **{f"{at}cpu.cfs_quota_us": us + "\n", f"{at}cpu.cfs_period_us": "100000\n"}
    )
    assert device.cpu_quota(root) == quota


def test_a_parent_limits_too(tmp_path: Path) -> None:
    root = machine(tmp_path, V2, V2_MOUNTS, **{"app/one/cpu.max": "400000 100000", "app/cpu.max": "100000 100000"})
    assert device.cpu_quota(root) == 1.0


def test_v1_controllers_win_over_a_unified_mount_beside_them(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/app/one/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/app/one/cpu.cfs_period_us": "100000",
        "unified/app/one/cpu.max": "100000 100000",
    }
    assert device.cpu_quota(machine(tmp_path, V1 + V2, V1_MOUNTS, **files)) == 3.0


@pytest.mark.parametrize("path", ["/docker/abc", "/../../abc"])
def test_in_a_container_the_mount_point_is_the_own_cgroup(tmp_path: Path, path: str) -> None:
    mounts = V2_MOUNTS.replace(" / /sys", " /docker/abc /sys")
    root = machine(tmp_path, f"0::{path}\n", mounts, **{"cpu.max": "250000 100000"})
    assert device.cpu_quota(root) == 2.5


def test_memory_v2(tmp_path: Path) -> None:
    files = {
        "app/one/memory.max": "max",
        "app/memory.max": str(2 * GIB),
        "app/memory.current": str(GIB),
        "app/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
    }
    root = machine(tmp_path, V2, V2_MOUNTS, **files)
    assert device.memory_limit(root) == 2 * GIB
    assert device.available_memory(root) == 2 * GIB - GIB // 2


def test_memory_v1(tmp_path: Path) -> None:
    files = {
        "memory/app/one/memory.limit_in_bytes": str(GIB),
        "memory/app/one/memory.usage_in_bytes": str(3 * GIB),  # a limit that was lowered
        "memory/app/one/memory.stat": "cache 5\ntotal_inactive_file 7\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = machine(tmp_path, V1, V1_MOUNTS, **files)
    assert device.memory_limit(root) == GIB
    assert device.available_memory(root) == 0


def test_no_memory_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, V1, V1_MOUNTS, **{"memory/app/one/memory.limit_in_bytes": "9223372036854771712"})
    assert device.memory_limit(root) is None
    assert device.available_memory(root) == 4 * GIB
    assert device.total_memory(root) == 8 * GIB


def test_x86_features(tmp_path: Path) -> None:
    first = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse avx2 avx512_vnni amx_int8\n"
    root = tree(tmp_path, {"proc/cpuinfo": f"{first}\nprocessor\t: 1\n"})
    assert device.cpu_features(root) == {"avx2", "avx512_vnni", "amx_int8"}
    assert device.cpu_model(root) == "Some CPU @ 2 GHz"


CORTEX = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


def test_arm_features_come_from_the_auxiliary_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the text of /proc/cpuinfo."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    root = tree(tmp_path, {"proc/cpuinfo": CORTEX})
    vector = {6: 4096, 16: 1 << 1 | 1 << 20 | 1 << 22, 26: 1 << 13, 0: 0}
    (root / "proc/self").mkdir()
    (root / "proc/self/auxv").write_bytes(b"".join(struct.pack("@NN", *pair) for pair in vector.items()))
    assert device.cpu_features(root) == {"asimd", "asimddp", "sve", "i8mm"}
    assert device.cpu_model(root) == "Neoverse-V1"


def test_an_arm_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert device.cpu_features(tmp_path) == set()
    for text in ("", CORTEX.replace("0x41", "0x48"), CORTEX.replace("0xd40", "0xfff"), CORTEX.replace("0xd40", "?")):
        assert cpu_features.arm_core(tree(tmp_path, {"proc/cpuinfo": text})) == ""


def test_this_machine_has_an_auxiliary_vector() -> None:
    assert cpu_features.auxiliary_vector(device.ROOT)[6] == os.sysconf("SC_PAGE_SIZE")  # AT_PAGESZ


@pytest.mark.usefixtures("eight_cores")
def test_a_system_without_proc(tmp_path: Path) -> None:
    found = device.describe(tmp_path)
    assert found.features == ()
    assert "no /proc/cpuinfo" in found.features_why
    assert (found.memory, found.memory_limit, found.available, found.quota) == (None, None, None, None)
    assert found.threads == 8


def test_unknown_features_say_why(tmp_path: Path) -> None:
    found = device.describe(tree(tmp_path, {"proc/cpuinfo": "processor : 0\nisa : rv64imafdc\n"}))
    assert found.features == ()
    assert "none of the instruction sets" in found.features_why


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert device.threads(tmp_path) == 3


def test_this_machine() -> None:
    found = device.describe()
    assert 1 <= found.threads <= found.affinity <= found.cores
    assert found.memory is None or found.available is None or found.available <= found.memory


def test_affinity_of_this_process_counts() -> None:
    """F-D11: a process that is bound to one core uses one thread."""
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"{bind}; from edgekit.machine import device; print(device.threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


def test_governor_and_frequencies(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    files = {f"{cpus}/cpu{n}/cpufreq/scaling_cur_freq": f"{1000 + n}000\n" for n in (0, 1, 10)}
    files |= {f"{cpus}/cpu{n}/cpufreq/scaling_governor": "powersave\n" for n in (0, 1)}
    root = tree(tmp_path, files)
    assert device.frequencies(root) == (1_000_000_000, 1_001_000_000, 1_010_000_000)
    assert device.governor(root) == "powersave"
    tree(root, {f"{cpus}/cpu10/cpufreq/scaling_governor": "performance"})
    assert device.governor(root) == "performance, powersave"


def test_frequencies_of_cpuinfo(tmp_path: Path) -> None:
    info = "processor : 0\ncpu MHz\t\t: 2000.500\n\nprocessor : 1\ncpu MHz\t\t: 1999.5\ncpu MHz : unknown\n"
    assert device.frequencies(tree(tmp_path, {"proc/cpuinfo": info})) == (2_000_500_000, 1_999_500_000)
    assert device.frequencies(tmp_path / "nothing") == ()
    assert device.governor(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, None),
        ({"sys/hypervisor/type": "xen\n"}, "xen"),
        ({"proc/cpuinfo": "flags : avx2 hypervisor\n"}, "one that does not give its name"),
        (
            {"proc/cpuinfo": "flags : hypervisor\n", "sys/class/dmi/id/sys_vendor": "Amazon EC2\n"},
            "Amazon EC2",
        ),
        ({"proc/cpuinfo": "flags : avx2\n", "sys/class/dmi/id/sys_vendor": "Dell Inc.\n"}, None),
        (
            {"sys/class/dmi/id/sys_vendor": "QEMU\n", "sys/class/dmi/id/product_name": "KVM Virtual Machine\n"},
            "QEMU KVM Virtual Machine",
        ),
    ],
)
def test_hypervisor(tmp_path: Path, files: dict[str, str], said: str | None) -> None:
    assert device.hypervisor(tree(tmp_path, files)) == said


def test_throttled_counts_every_core(tmp_path: Path) -> None:
    assert device.throttled(tmp_path) is None
    where = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    assert device.throttled(tree(tmp_path, {where.format(0): "3\n", where.format(1): "4\n"})) == 7


def test_gpus_by_the_drivers_own_files(tmp_path: Path) -> None:
    assert device.gpus(tmp_path) == ()
    nvidia = "proc/driver/nvidia"
    files = {
        f"{nvidia}/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nGPU UUID: \t GPU-1234\n",
        f"{nvidia}/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 2025\n",
    }
    assert device.gpus(tree(tmp_path, files)) == ("NVIDIA H100 80GB HBM3, driver 580.95.05",)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA L4, 580.95.05'; echo 'NVIDIA L4, 580.95.05'", ("NVIDIA L4, driver 580.95.05",) * 2),
        ("echo 'NVIDIA-SMI has failed'; exit 9", ()),
        ("exec sleep 60", ()),
    ],
)
def test_gpus_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: tuple[str, ...]
) -> None:
    if Path("/proc/driver/nvidia/gpus").exists():
        pytest.skip("this machine has a driver that tells without it")
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(device, "PATIENCE", 0.5)
    assert device.gpus() == found
