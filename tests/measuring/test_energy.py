"""Counters of energy: RAPL as a folder that is counted on while the block runs, NVML as a library of our own in C."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.measuring import energy
from edgekit.measuring.child import device_memory
from edgekit.measuring.energy import meter
from edgekit.measuring.nvml import gpu_memory

RANGE = 262_143_328_850
STUB = Path(__file__).parents[1] / "fixtures" / "stub_nvml.c"


def zone(root: Path, name: str, label: str, count: int) -> Path:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / "energy_uj").write_text(f"{count}\n")
    return folder / "energy_uj"


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 1000), zone(tmp_path, "intel-rapl:1", "package-1", 0)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    with meter(root=tmp_path) as counted:
        first.write_text("2001000\n")
        second.write_text("500000\n")
        core.write_text("900000\n")
        whole.write_text("9900000\n")
    found = counted.energy("token", 10)
    assert (found.joules, found.each) == (pytest.approx(2.5), pytest.approx(0.25))
    assert (found.per, found.source, found.why) == ("token", "RAPL package", "")
    assert counted.energy("run", 0).each is None


def test_a_counter_that_goes_around(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    with meter(root=tmp_path) as counted:
        file.write_text("500000\n")
    assert counted.energy("run", 1).joules == pytest.approx(1.5)


def test_a_time_in_which_it_may_have_gone_around_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(energy, "MOST_WATTS", 1e12)
    with meter(root=tmp_path) as counted:
        time.sleep(0.3)
    found = counted.energy("run", 1)
    assert found.joules is None
    assert "its counter goes around" in found.why


def test_no_counter_is_a_reason(tmp_path: Path) -> None:
    with meter(root=tmp_path) as counted:
        pass
    found = counted.energy("run", 3)
    assert (found.joules, found.each, found.source) == (None, None, "")
    assert "no energy counter (RAPL)" in found.why


def test_a_counter_that_may_not_be_read_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    read = Path.read_text

    def guarded(path: Path, *args: str, **options: str) -> str:
        if path == file:  # root reads what nobody may
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    with meter(root=tmp_path) as counted:
        pass
    assert "chmod a+r" in counted.energy("run", 1).why


def test_a_counter_that_goes_away_meanwhile(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    with meter(root=tmp_path) as counted:
        file.unlink()
    found = counted.energy("run", 1)
    assert found.joules is None
    assert "energy_uj of intel-rapl:0 cannot be read" in found.why


def test_the_log_of_a_meter(tmp_path: Path) -> None:
    file = tmp_path / "meter.csv"
    before = time.time()
    with meter(file) as counted:
        now = time.time()
        file.write_text(f"time,watts\n{now - 2},7\n{now},7\n{now + 2},7\n")
        time.sleep(0.05)
    after = time.time()
    file.write_text(f"time,watts\n{before - 2},7\n{now},7\n{after + 2},7\n")
    found = counted.energy("run", 2)
    assert found.source == "meter.csv"
    assert found.joules is not None
    assert found.each is not None
    assert 7 * 0.05 <= found.joules <= 7 * (after - before)
    assert found.each == found.joules / 2


def test_a_log_of_another_time_and_one_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "meter.csv"
    file.write_text("time,watts\n1,7\n2,7\n")
    with meter(file) as counted:
        pass
    assert "no sample of the time" in counted.energy("run", 1).why
    file.write_text("nothing\n")
    with pytest.raises(InputError), meter(file):
        pass


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libnvidia-ml whose GPU has used 1,500 mJ more each time it is asked."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvml.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, STUB], check=True)
    return library


def test_a_gpu(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUB_NVML_FAILS", raising=False)
    with meter(gpu=True, library=str(nvml)) as counted:
        pass
    found = counted.energy("run", 3)
    assert (found.joules, found.each, found.source) == (pytest.approx(1.5), pytest.approx(0.5), "NVML")


def test_a_gpu_that_has_no_counter(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_NVML_FAILS", "1")
    with meter(gpu=True, library=str(nvml)) as counted:
        pass
    assert counted.energy("run", 1).why == "NVML: Not Supported"


def test_what_a_process_holds_on_a_gpu(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUB_NVML_FAILS", raising=False)
    assert gpu_memory(os.getpid(), str(nvml)) == 3_000_000_000
    with pytest.raises(OSError, match="does not say what this process holds"):
        gpu_memory(2, str(nvml))
    monkeypatch.setenv("STUB_NVML_HIDES", "1")
    with pytest.raises(OSError, match="does not say what this process holds"):
        gpu_memory(os.getpid(), str(nvml))
    monkeypatch.setenv("STUB_NVML_FAILS", "1")
    with pytest.raises(OSError, match="Not Supported"):
        gpu_memory(os.getpid(), str(nvml))


def test_memory_of_a_device_that_is_not_there_is_told_as_that() -> None:
    assert device_memory("cpu") == (None, "it computes in the host's memory")
    if not Path("/proc/driver/nvidia/version").exists():
        held, why = device_memory("cuda")
        assert (held, "libnvidia-ml" in why) == (None, True)


def test_no_gpu() -> None:
    with meter(gpu=True, library="libnvidia-ml-that-is-not-there.so.1") as counted:
        pass
    assert "libnvidia-ml-that-is-not-there" in counted.energy("run", 1).why


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/proc/driver/nvidia/version").exists(), reason="no NVIDIA driver")
def test_a_real_gpu() -> None:
    with meter(gpu=True) as counted:
        time.sleep(0.5)
    found = counted.energy("run", 1)
    assert found.why == ""
    assert found.joules is not None
    assert 0 < found.joules < 1000
