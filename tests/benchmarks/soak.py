"""Whether memory grows with the answers that were given: thousands of generations in one process, on each target.

    python tests/benchmarks/soak.py -o soak.json

A fresh process for each target and each way of asking opens the bundle (the zoo's speaker, exported first, unless
`--bundle` names another) and answers 2,000 times. `generate`: prompts and answers of random length, now and then eight
prompts as a batch, more often in the first 300. `session`: turns of one session, which is reset, forked, saved and
loaded now and then. Resident memory is read after every 100; the slope is that of the least-squares line behind the
first 300, in which engines make what they keep: kernels for each number of tokens. Ends with exit code 1 where a slope
is over 50 kB in 100 generations.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from _harness import machine, publish, say, table
from contenders import last_line

EVERY, WARM = 100, 300  # generations between two looks; those that do not count
BOUND = 50.0  # kB more in 100 generations
PATIENCE = 3600.0  # seconds for one process
SEED = 7


def prompt(draw: random.Random) -> list[int]:
    """Ids that every tokenizer has."""
    return [draw.randrange(3, 12) for _ in range(draw.randint(1, 24))]


def generations(model: Any, draw: random.Random) -> Iterator[None]:
    """An answer at each step; every 50th time they are a batch's, and every 5th at first."""
    for number in range(sys.maxsize):
        options = {"max_new_tokens": draw.randint(1, 32), "temperature": draw.choice([0, 1.0]), "seed": number}
        if number % 50 == 49 or (number < WARM and number % 5 == 4):
            list(model.run([prompt(draw) for _ in range(8)], **options))
        else:
            model.generate(prompt(draw), **options)
        yield


def turns(model: Any, draw: random.Random) -> Iterator[None]:
    """A turn at each step, of a session that begins anew when its context is near to full."""
    room = model.bundle.settings["context_length"]
    with tempfile.TemporaryDirectory() as folder, model.session() as chat:
        for number in range(sys.maxsize):
            said, new = prompt(draw), draw.randint(1, 8)
            if chat.tokens + len(said) + new + 1 > room or number % 40 == 39:
                chat.reset()
            if number % 10 == 9:
                with chat.fork() as other:
                    other.generate(said, max_new_tokens=new)
            if number % 25 == 24:
                chat.save(Path(folder) / "chat.state")
                chat.load(Path(folder) / "chat.state")
            chat.generate(said, max_new_tokens=new)
            yield


WAYS: dict[str, Callable[[Any, random.Random], Iterator[None]]] = {"generate": generations, "session": turns}


def work(bundle: Path, target: str, way: str, count: int) -> dict[str, Any]:
    """What a process of its own does: resident bytes after every EVERY answers, and the seconds that all took."""
    import edgekit

    with edgekit.load(bundle, target=target, threads=1) as model:
        steps, resident, begun = WAYS[way](model, random.Random(SEED)), [], time.perf_counter()
        for number in range(1, count + 1):
            next(steps)
            if number % EVERY == 0:
                gc.collect()
                resident.append(rss())
        return {"variant": model.variant.name, "resident": resident, "seconds": time.perf_counter() - begun}


def rss() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slope(values: Sequence[float]) -> float:
    """Of the least-squares line through values at 0, 1, 2, …"""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    away = [place - middle for place in range(len(values))]
    return sum(a * (value - mean) for a, value in zip(away, values)) / sum(a * a for a in away)


def asked(bundle: Path, target: str, way: str, count: int) -> dict[str, Any]:
    """Raises RuntimeError with the last that the process said."""
    command = [sys.executable, __file__, "--bundle", str(bundle), "--work", target, way, "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RuntimeError(f"{target}, {way}: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    found["kb_per_100"] = slope(found["resident"][WARM // EVERY - 1 :]) / 1000 * (100 / EVERY)
    return found


def targets_of(bundle: Path) -> list[str]:
    """Those that the bundle has and this machine too."""
    from edgekit import registry
    from edgekit.bundle import manifest

    have = {variant.target for variant in manifest.read(bundle).variants}
    return [
        name for name in registry.names("targets") if name in have and registry.find("targets", name).probe().available
    ]


def soak(bundle: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found = {}
    for target in args.targets or targets_of(bundle):
        for way in WAYS:
            found[f"{target}, {way}"] = one = asked(bundle, target, way, args.count)
            say(f"{target}, {way}: {one['kb_per_100']:.1f} kB in 100")
    return found


def report(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, one["variant"], *(round(one["resident"][at] / 1000) for at in (0, WARM // EVERY - 1, -1)),
         round(one["kb_per_100"], 1), round(one["seconds"])]
        for name, one in found.items()
    ]  # fmt: skip
    head = ("what", "variant", "kB after 100", f"after {WARM}", "at the end", "kB in 100", "seconds")
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a language model's bundle (default: the zoo's speaker, int8)")
    parser.add_argument("--targets", nargs="+", help="default: all that the bundle and this machine have")
    parser.add_argument("--count", type=int, default=2000, help="generations in each process (default: 2000)")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    args = parser.parse_args()
    if args.count < WARM + 2 * EVERY:
        parser.error(f"--count must be {WARM + 2 * EVERY} or more")
    if args.work:
        target, way = args.work
        print(json.dumps(work(args.bundle, target, way, args.count)))
        return
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args.bundle or exported(Path(folder) / "speaker.ek"), args)
    over = [f"{name}: {one['kb_per_100']:.1f} kB" for name, one in found.items() if one["kb_per_100"] > BOUND]
    facts = {
        "schema": "edgekit.benchmarks.soak/1", "count": args.count, "bound_kb_per_100": BOUND, "figures": found,
        "broken": over, "machine": {**before, "load_after": os.getloadavg()},
    }  # fmt: skip
    publish(args, f"{args.count} generations each; at most {BOUND:.0f} kB in 100\n\n{report(found)}", facts)
    for failure in over:
        say(f"BROKEN {failure} in 100 generations, at most {BOUND:.0f}")
    sys.exit(bool(over))


def exported(folder: Path) -> Path:
    import edgekit
    from edgekit import registry

    here = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
    edgekit.export("zoo:speaker", folder, targets=here, precision="int8")
    return folder


if __name__ == "__main__":
    main()
