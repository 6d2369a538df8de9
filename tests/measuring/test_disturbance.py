"""What disturbs a measurement, from counters of a made-up machine and from this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.measuring.disturbance import Counters, Watch, compare, tell

QUIET = Counters(wall=100.0, real=5000.0, awake=100.0, own=10.0, busy=50.0, stolen=1.0, throttles=3, hertz=3 * 10**9)
LATER = replace(QUIET, wall=110.0, real=5010.0, awake=110.0, own=25.0, busy=65.0)


def machine(root: Path, *, user: int, steal: int = 0, throttles: int | None = None, khz: int | None = None) -> Path:
    """A /proc and /sys with these counters."""
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {user} 0 0 9999 5 0 0 {steal} 0 0\ncpu0 1 2 3\n")
    core = root / "sys/devices/system/cpu/cpu0"
    for file, value in (("thermal_throttle/core_throttle_count", throttles), ("cpufreq/scaling_cur_freq", khz)):
        if value is not None:
            (core / file).parent.mkdir(parents=True, exist_ok=True)
            (core / file).write_text(f"{value}\n")
    return root


def test_a_quiet_machine_disturbs_nobody() -> None:
    assert tell([compare(QUIET, LATER, cores=2)]) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"busy": 73.0}, "other programs used 0.8 cores"),
        ({"stolen": 2.0}, "the hypervisor took 5% of the time"),
        ({"real": 5310.0}, "the clock was set by 300.00 s"),
        ({"real": 4910.0}, "the clock was set by 100.00 s"),
        ({"awake": 115.0, "real": 5015.0}, "the machine slept for 5.0 s"),
        ({"throttles": 5}, "the processor throttled itself 2 times"),
    ],
)
def test_what_goes_on_beside_is_told(changes: dict[str, float], said: str) -> None:
    assert tell([compare(QUIET, replace(LATER, **changes), cores=2)]) == (said,)


def test_blocks_that_are_too_short_tell_together() -> None:
    short = {"wall": 0.15, "others": 0.12, "steal": 0.0}
    assert tell([short]) == ()
    assert tell([short, short]) == ("other programs used 0.8 cores",)


def test_a_kernel_that_says_nothing_is_not_blamed(tmp_path: Path) -> None:
    with Watch(tmp_path) as watch:
        pass
    assert watch.hertz is None
    assert {"others", "steal", "throttled", "slower"} & watch.seen.keys() == set()


def test_counters_are_read_in_seconds_and_hertz(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    found = Counters.read(machine(tmp_path, user=7 * ticks, steal=2 * ticks, throttles=4, khz=2_000_000))
    assert (found.busy, found.stolen, found.throttles, found.hertz) == (7.0, 2.0, 4, 2 * 10**9)


def test_a_lower_clock_than_before_is_seen(tmp_path: Path) -> None:
    with Watch(machine(tmp_path, user=0, khz=1_500_000), before=2 * 10**9) as watch:
        pass
    assert watch.hertz == 2 * 10**9, "the highest so far"
    assert tell([watch.seen]) == ("the cores' clock fell by 25%",)


def test_a_process_that_was_stopped_knows_it() -> None:
    code = (
        "import sys, time\n"
        "from edgekit.measuring.disturbance import Watch, tell\n"
        "with Watch() as watch:\n"
        "    print('in', flush=True)\n"
        "    sys.stdin.readline()\n"
        "print(tell([{'wall': 0.1, 'stopped': watch.seen['stopped']}]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    told, _ = process.communicate("\n", timeout=300)
    assert "its process was stopped for" in told
