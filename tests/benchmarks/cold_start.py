"""From the start of a process to its first vector, EdgeKit beside its peers.

    python tests/benchmarks/cold_start.py --peers .peers -o cold_start.json

Every figure is a fresh process that imports its library, loads all-MiniLM-L6-v2 and embeds one sentence; the clock
stops when the vector has arrived here. Processes take turns, one of each kind per round, and the ratio to the fastest
peer is taken within a round. Files are in the page cache (a first, unmeasured round sees to that). EdgeKit's OpenVINO
variants run twice: with the compiled model in EdgeKit's cache, and with an empty cache. Below, the CPU time of
`edgekit --help` beside that of an interpreter that does nothing.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _harness import Worker, WorkerFailed, arguments, chosen, machine, publish, say, spread, stage_of, table
from contenders import EDGEKIT, PEERS, REFERENCE, Contender, Stage

HELP_RUNS = 10
QUICK = (*EDGEKIT, REFERENCE)


@dataclass(frozen=True)
class Start:
    """A contender, and whether it starts with an empty cache of compiled models."""

    contender: Contender
    empty_cache: bool = False

    @property
    def name(self) -> str:
        return self.contender.name + (", empty cache" if self.empty_cache else "")


def starts(contenders: Sequence[Contender]) -> list[Start]:
    compiled = [one for one in contenders if one.ours and one.spec["target"] == "openvino"]
    return [*map(Start, contenders), *(Start(one, empty_cache=True) for one in compiled)]


def once(stage: Stage, start: Start, threads: int) -> dict[str, float]:
    """Seconds to the first vector, and of these the library's import and load. Raises WorkerFailed."""
    with tempfile.TemporaryDirectory() as empty:
        extra = {"XDG_CACHE_HOME": empty} if start.empty_cache else None
        begun = time.perf_counter()
        with Worker(stage, start.contender, threads, extra) as worker:
            return {"seconds": worker.born - begun, "load_seconds": worker.loaded["load_seconds"]}


def measure(stage: Stage, wanted: Sequence[Start], threads: int, rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Name -> one reply a round, for those that start at all; name -> why not, for the others."""
    absent: dict[str, str] = {}
    found: dict[str, list[dict[str, float]]] = {start.name: [] for start in wanted}
    for number in range(rounds + 1):  # round 0 warms the page cache
        for start in wanted:
            if start.name in absent:
                continue
            try:
                if number == 0 and (why := stage.prepare(start.contender)):
                    raise WorkerFailed(why)
                found[start.name].append(once(stage, start, threads))
            except WorkerFailed as failed:
                absent[start.name] = str(failed)
                say(f"{start.name}: left out: {failed}")
        say(f"round {number} of {rounds}")
    return {name: taken[1:] for name, taken in found.items() if name not in absent}, absent


def figures(found: dict[str, list[dict[str, float]]], wanted: Sequence[Start]) -> dict[str, dict[str, Any]]:
    seconds = {name: [one["seconds"] for one in taken] for name, taken in found.items()}
    result = {}
    for name, mine in seconds.items():
        peers = [seconds[start.name] for start in wanted if not start.contender.ours and start.name in seconds]
        peers = [taken for taken in peers if taken is not mine]
        ratios = [own / min(peer[at] for peer in peers) for at, own in enumerate(mine)] if peers else []
        result[name] = {
            "seconds": spread(mine),
            "load_seconds": median(one["load_seconds"] for one in found[name]),
            "vs_fastest_peer": spread(ratios) if ratios else None,
        }
    return result


def cpu_seconds(command: Sequence[str | Path]) -> float | None:
    """User and system time of a child; None where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return None if done.returncode else after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_line() -> dict[str, float | None]:
    """CPU seconds, median of HELP_RUNS, taking turns."""
    commands: dict[str, list[str | Path]] = {
        "edgekit --help": [Path(sys.executable).with_name("edgekit"), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    taken: dict[str, list[float | None]] = {name: [] for name in commands}
    for _ in range(HELP_RUNS):
        for name, command in commands.items():
            taken[name].append(cpu_seconds(command) if Path(command[0]).exists() else None)
    return {name: None if None in times else median(filter(None, times)) for name, times in taken.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    wanted = starts(chosen(QUICK if args.quick else (*EDGEKIT, *PEERS), args.only))
    before = machine()
    found, absent = measure(stage_of(args), wanted, args.threads, args.rounds)
    result, commands = figures(found, wanted), command_line()
    facts = {
        "schema": "edgekit.benchmarks.cold_start/1", "rounds": args.rounds, "threads": args.threads,
        "figures": result, "left_out": absent, "command_cpu_seconds": commands,
        "machine": {**before, "load_after": os.getloadavg()},
    }  # fmt: skip
    rows = []
    for name, one in result.items():
        seconds, ratio = one["seconds"], one["vs_fastest_peer"]
        around = f"{seconds['min']:.2f} – {seconds['max']:.2f}"
        rows.append([name, seconds["median"], around, one["load_seconds"], ratio and ratio["median"]])
    started = table(("contender", "s to first vector", "min – max", "of it import and load", "x fastest peer"), rows)
    cpu = table(("command", "CPU ms"), [[name, taken and 1e3 * taken] for name, taken in commands.items()])
    publish(args, f"{started}\n\n{cpu}", facts)


if __name__ == "__main__":
    main()
