"""Is what `edgekit bench` says true? Its figures beside others, taken without it.

    python tests/benchmarks/bench_truth.py BUNDLE... [--target cpu] [--runs 200] [--turns 60] -o truth.json

latency: a process that holds nothing of the harness runs the model N times between two readings of the clock, made by
another process over a pipe; the total over N, beside the mean of the harness. The two take turns, each as often before
the other as after it, and short ones, so that what else the machine does meets both alike; the ratio is the median of
the turns' ratios, `between` its 95 % interval by their ranks. peak: of that outside process by `wait4` (ru_maxrss,
which is what /usr/bin/time -v prints), beside the peak that the harness reports for its own. overhead: a run that only
waits for a millisecond on the clock, timed by the harness, beside that millisecond.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from _harness import machine, publish, say, table

from edgekit.bundle import manifest
from edgekit.core import Bundle, Variant
from edgekit.machine import device
from edgekit.measuring import inputs, timing
from edgekit.measuring.configuration import Test
from edgekit.measuring.parent import Subject

OUTSIDE = """
import json, sys
import edgekit
folder, target, precision, threads = sys.argv[1:]
items = json.loads(sys.stdin.readline())
with edgekit.load(folder, target=target, precision=precision, threads=int(threads)) as model:
    items = [model.item(item) for item in items]
    for line in sys.stdin:
        for number in range(int(line)):
            model.answer([items[number % len(items)]])
        print("done", flush=True)
"""
MILLISECOND = 1_000_000  # nanoseconds


class Outside:
    """The model in a process of its own, which is told how often to run it and says when it has."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int, items: list[Any]) -> None:
        words = [str(bundle.folder), variant.target, variant.recipe.name, str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", OUTSIDE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(items) + "\n")

    def seconds(self, runs: int) -> float:
        """Of a run, the mean of so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        begun = time.perf_counter()
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit("the process outside has died")
        return (time.perf_counter() - begun) / runs

    def close(self) -> int:
        """Its peak of resident memory in bytes, as the kernel tells whoever waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        _, _, used = os.wait4(self._process.pid, 0)
        return used.ru_maxrss * 1024


def latency(bundle: Bundle, variant: Variant, threads: int, runs: int, turns: int) -> dict[str, Any]:
    """Seconds of a run by both, and the peak of either."""
    items = inputs.items(bundle)
    outside, count = Outside(bundle, variant, threads, items), len(items)
    runs = max(count, runs // count * count)  # both go through the same inputs as often
    ours, theirs = list[float](), list[float]()
    with (
        tempfile.TemporaryDirectory() as place,
        Subject(bundle.folder, variant, Test("single-stream"), threads, Path(place), items=items) as subject,
    ):
        subject.hear()
        subject.hear()
        subject.stop()
        outside.seconds(runs)
        for turn in range(turns):
            if turn % 2:
                theirs.append(outside.seconds(runs))
            ours.append(fmean(subject.ask(do="run", count=runs)["values"]["latency"]))
            if turn % 2 == 0:
                theirs.append(outside.seconds(runs))
        found = subject.finish()
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    (peak,) = (phase["rss"] for phase in found["phases"] if phase["name"] == "peak")
    return {
        "ours": median(ours),
        "outside": median(theirs),
        "ratio": median(ratios),
        "between": _between(ratios),
        "peak": peak,
        "maxrss": outside.close(),
    }


def _between(ranked: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by the normal approximation of the binomial: Conover, Practical Nonparametric
    Statistics, 3.2."""
    count = len(ranked)
    off = round(0.98 * count**0.5)
    return ranked[max(0, count // 2 - off)], ranked[min(count - 1, count // 2 + off)]


def overhead(runs: int) -> dict[str, float]:
    """A run of a millisecond by the clock, as the harness times it: the whole loop over so many, too."""

    def wait(item: int) -> Any:
        end = time.perf_counter_ns() + MILLISECOND
        while time.perf_counter_ns() < end:
            pass
        yield item

    begun = time.perf_counter_ns()
    stamps = timing.timed(lambda number: number, wait, 0, runs, 1)
    whole = time.perf_counter_ns() - begun
    taken = [came[0] for came in timing.split(stamps, 1)]
    return {"timed": median(taken) * 1e9 / MILLISECOND - 1, "loop": whole / (runs * MILLISECOND) - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--target", action="append", help="(default: all of the bundle that this machine has)")
    parser.add_argument("--threads", type=int, default=device.threads())
    parser.add_argument("--runs", type=int, default=200, help="in a turn (default: 200)")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for folder in args.bundles:
        bundle = manifest.read(folder)
        for variant in bundle.variants:
            if not args.target or variant.target in args.target:
                name = f"{bundle.name} {variant.name}"
                found[name] = latency(bundle, variant, args.threads, args.runs, args.turns)
                say(json.dumps({name: found[name]}))
    extra = overhead(2000)
    rows = [
        (name, one["ours"] * 1e3, one["outside"] * 1e3, f"{one['ratio']:.3f}",
         " – ".join(f"{end:.3f}" for end in one["between"]), one["peak"] / 1e6, one["maxrss"] / 1e6,
         one["peak"] / one["maxrss"])
        for name, one in found.items()
    ]  # fmt: skip
    head = ("variant", "ms, harness", "ms, outside", "ratio", "between", "peak, harness", "peak, outside", "ratio")
    text = f"{table(head, rows)}\n\nof a millisecond: timed {extra['timed']:+.3%}, whole loop {extra['loop']:+.3%}"
    publish(args, text, {"figures": found, "overhead": extra, "machine": machine()})


if __name__ == "__main__":
    main()
