"""The environment that a report shows: what the machine says of itself, and never whose it is."""

from __future__ import annotations

import getpass
import platform
import re
import socket
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

import edgekit
from edgekit.errors import ResourceError
from edgekit.machine import device
from edgekit.measuring import bandwidth
from edgekit.measuring.environment import describe


def test_this_machine() -> None:
    found = describe(0.25, 5e9)
    here = device.describe()
    assert (found.cpu, found.cores, found.affinity, found.memory) == (
        here.cpu,
        here.cores,
        here.affinity,
        here.memory,
    )
    assert (found.load_before, found.bandwidth) == (0.25, 5e9)
    assert found.engines["cpu"] == f"ONNX Runtime {onnxruntime.__version__}"
    assert found.software["edgekit"] == edgekit.__version__
    assert found.software["numpy"] == np.__version__


def test_it_names_neither_the_machine_nor_its_user() -> None:
    """By the words of all that it holds. A name that everybody's machine has proves nothing."""
    words = set(re.findall(r"[\w.-]+", msgspec.json.encode(describe(0, None)).decode()))
    names = {platform.node(), socket.gethostname(), getpass.getuser(), Path.home().name, str(Path.home())}
    assert not words & {name for name in names if name and name not in ("localhost", "linux")}


def test_a_machine_of_files(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name : Nice CPU\nflags : avx2 hypervisor\ncpu MHz : 1000\n")
    found = describe(1.0, None, tmp_path)
    assert (found.cpu, found.features, found.frequencies) == ("Nice CPU", ("avx2",), (10**9,))
    assert found.hypervisor == "one that does not give its name"
    assert (found.memory, found.governor, found.gpu) == (None, None, ())


def test_bandwidth_is_that_of_a_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads slower than a hundredth of a gigabyte a second, and nothing faster than ten thousand."""
    monkeypatch.setattr(bandwidth, "SIZE", 1 << 27)
    monkeypatch.setattr(bandwidth, "cache_bytes", lambda root: 0)
    assert 1e7 < bandwidth.read_bandwidth(2, 0.05) < 1e13


def memory(root: Path, available: int, cache: str = "2048K") -> Path:
    for name, text in (
        ("proc/meminfo", f"MemTotal: {available >> 10} kB\nMemAvailable: {available >> 10} kB\n"),
        ("sys/devices/system/cpu/cpu0/cache/index2/size", "1024K\n"),
        ("sys/devices/system/cpu/cpu0/cache/index3/size", f"{cache}\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_buffer_is_a_quarter_of_what_is_left_at_most(tmp_path: Path) -> None:
    assert bandwidth.buffer_bytes(memory(tmp_path, 1 << 30)) == 1 << 28
    assert bandwidth.buffer_bytes(memory(tmp_path, 1 << 40)) == bandwidth.SIZE
    assert bandwidth.buffer_bytes(tmp_path / "nothing is known") == bandwidth.SIZE


@pytest.mark.parametrize(("available", "cache"), [(1 << 27, "2048K"), (1 << 30, f"{200 << 10}K")])
def test_a_buffer_that_a_cache_would_hold_is_refused(tmp_path: Path, available: int, cache: str) -> None:
    with pytest.raises(ResourceError, match="a quarter of the free memory is") as caught:
        bandwidth.read_bandwidth(1, 0.01, memory(tmp_path, available, cache))
    assert caught.value.exit_code == 7
