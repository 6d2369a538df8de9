"""Which instruction sets the processor has, as the kernel names them.

Linux on x86: the flags of /proc/cpuinfo. Linux on Arm: the bits AT_HWCAP and AT_HWCAP2 of the auxiliary vector,
getauxval(3), which say what this process may use; the text of /proc/cpuinfo is missing in some containers and
emulators, and is that of the first core only. macOS on Arm: sysctl(3). Elsewhere none is known, and what is right
without any is used: Windows tells of too few. Every function takes the root under which /proc lies. Knows no engine.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path

from edgekit.machine.system_calls import c_function

ROOT = Path("/")
# The flags that change which kernels an engine picks.
X86 = ("f16c", "fma", "avx", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16")
AMX = ("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
# Linux, arch/arm64/include/uapi/asm/hwcap.h: name -> (entry of the vector, bit).
AT_HWCAP, AT_HWCAP2 = 16, 26
ARM = {
    "asimd": (AT_HWCAP, 1),
    "asimdhp": (AT_HWCAP, 10),  # products of half precision
    "asimddp": (AT_HWCAP, 20),  # dot products of bytes
    "sve": (AT_HWCAP, 22),
    "sve2": (AT_HWCAP2, 1),
    "svei8mm": (AT_HWCAP2, 9),
    "svebf16": (AT_HWCAP2, 12),
    "i8mm": (AT_HWCAP2, 13),  # products of matrices of bytes
    "bf16": (AT_HWCAP2, 14),
    "sme": (AT_HWCAP2, 23),
}
# macOS, sysctl(3): https://developer.apple.com/documentation/kernel/1387446-sysctlbyname
MACOS = {
    "asimd": "hw.optional.AdvSIMD",
    "asimdhp": "hw.optional.arm.FEAT_FP16",
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "bf16": "hw.optional.arm.FEAT_BF16",
    "sme": "hw.optional.arm.FEAT_SME",
}
# As uname(1) names them; Windows in capitals.
ARM_MACHINES = ("aarch64", "arm64", "ARM64")
X86_MACHINES = ("x86_64", "AMD64")
# Arm's cores by the part number of their main id register (MIDR_EL1), as lscpu of util-linux names them.
ARM_CORES = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710",
    0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
}  # fmt: skip
ARM_LIMITED = 0x41  # the implementer of these


def read(root: Path, machine: str) -> frozenset[str]:
    """The instruction sets that matter here; empty where the kernel does not tell. `machine`: as uname(1) names it."""
    if sys.platform == "darwin" and machine in ARM_MACHINES:
        return frozenset(name for name, key in MACOS.items() if any(_sysctl(key)))
    if machine in ARM_MACHINES:
        vector = auxiliary_vector(root)
        return frozenset(name for name, (entry, bit) in ARM.items() if vector.get(entry, 0) >> bit & 1)
    flags = cpuinfo(root).get("flags", "").split()
    return frozenset((*X86, *AMX)).intersection(flags)


def arm_core(root: Path) -> str:
    """The name of the first core, "Cortex-A72"; empty for a core that is not in the table."""
    info = cpuinfo(root)
    try:
        if int(info["CPU implementer"], 16) != ARM_LIMITED:
            return ""
        return ARM_CORES.get(int(info["CPU part"], 16), "")
    except (KeyError, ValueError):
        return ""


def auxiliary_vector(root: Path) -> dict[int, int]:
    """What the kernel told this process when it started: type -> value, getauxval(3); {} where it cannot be read."""
    try:
        data = (root / "proc/self/auxv").read_bytes()
    except OSError:
        return {}
    return dict(struct.iter_unpack("@NN", data[: len(data) // 16 * 16]))


def brand() -> str:
    """What macOS calls the processor: "Apple M1"; empty on other systems."""
    if sys.platform != "darwin":
        return ""
    return _sysctl("machdep.cpu.brand_string").rstrip(b"\0").decode("ascii", "replace")


def _sysctl(name: str) -> bytes:
    """The value as macOS stores it; empty where it knows no such name."""
    call, value, size = c_function("sysctlbyname"), ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    if call is None or call(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return b""
    return value.raw[: size.value]


def cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
