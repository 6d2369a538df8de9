"""How much memory embedding takes, EdgeKit beside its peers.

    python tests/benchmarks/memory.py --peers .peers -o memory.json

A fresh process loads all-MiniLM-L6-v2 and embeds 1,000 sentences 32 at a time, then all 1,000 as one list, then a list
with five documents of 3,000 words (which every contender cuts to what the model reads). Peak is the most that was ever
resident (ru_maxrss); PSS and USS are what is resident at the end, shared pages divided or left out. `ten times` is the
peak of another fresh process that was given ten times the list: beyond the vectors that the caller gets, which are ten
times as many, it must not grow with the work. Ends with exit code 1 where an EdgeKit process breaks what it promises: a
peak of at most 2.5 times the weights' bytes and 150 MB, in the second process the vectors' own bytes besides.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from _harness import Worker, WorkerFailed, arguments, chosen, machine, publish, say, stage_of, table
from contenders import EDGEKIT, PEERS, Contender, Stage

MB = 1_000_000
WIDTH = 384  # numbers in a vector of all-MiniLM-L6-v2, of 4 bytes


def measure(stage: Stage, contender: Contender, threads: int, texts: int, times: int) -> dict[str, Any]:
    """Memory after each phase of one fresh process, in bytes. Raises WorkerFailed."""
    work = {"do": "time", "texts": {"n": texts}, "times": times}
    with Worker(stage, contender, threads) as worker:
        phases = {"loaded": worker.ask(do="memory")}
        worker.ask(**work, batch=32)
        phases["batches"] = worker.ask(do="memory")
        worker.ask(**work, batch=0)
        phases["one list"] = worker.ask(do="memory")
        worker.ask(do="long", count=5, batch=0)
        phases["long texts"] = worker.ask(do="memory")
        return phases


def weights(stage: Stage, contender: Contender) -> int:
    """Bytes of an EdgeKit variant's graph and of the tensors that it keeps in other files."""
    from edgekit.bundle import manifest, onnx_file

    found = manifest.read(stage.cache / contender.files)
    wanted = (contender.spec["target"], contender.precision)
    (variant,) = (one for one in found.variants if (one.target, one.recipe.weights) == wanted)
    return sum(
        (found.folder / graph.path).stat().st_size
        + sum(tensor.size for tensor in onnx_file.read(found.folder, graph.path).external)
        for graph in variant.graphs
    )


def figures(stage: Stage, contender: Contender, threads: int, texts: int) -> dict[str, Any]:
    phases = measure(stage, contender, threads, texts, 1)
    ten = measure(stage, contender, threads, texts, 10)
    last = phases["long texts"]
    found = {"phases": phases, "peak": last["peak"], "pss": last["pss"], "uss": last["uss"], "ten_times": ten}
    if contender.ours:
        held = weights(stage, contender)
        found |= {"weights": held, "bound": 2.5 * held + 150 * MB, "vectors": texts * WIDTH * 4}
    return found


def broken(name: str, one: dict[str, Any]) -> list[str]:
    if "bound" not in one:
        return []
    peaks = {"": (one["peak"], one["bound"])}
    peaks[" with ten times the list"] = (one["ten_times"]["long texts"]["peak"], one["bound"] + 10 * one["vectors"])
    return [
        f"{name}: a peak of {peak / MB:.0f} MB{when}, promised at most {bound / MB:.0f} MB"
        for when, (peak, bound) in peaks.items()
        if peak > bound
    ]


def main() -> None:
    parser = arguments(__doc__)
    args = parser.parse_args()
    texts = 100 if args.quick else 1000
    stage = stage_of(args)
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    failures: list[str] = []
    before = machine()
    for contender in chosen(EDGEKIT if args.quick else (*EDGEKIT, *PEERS), args.only):
        try:
            if why := stage.prepare(contender):
                raise WorkerFailed(why)
            found[contender.name] = figures(stage, contender, args.threads, texts)
            failures += broken(contender.name, found[contender.name])
            say(f"{contender.name}: peak {found[contender.name]['peak'] / MB:.0f} MB")
        except WorkerFailed as failed:
            absent[contender.name] = str(failed)
            say(f"{contender.name}: left out: {failed}")
            failures += [f"{contender.name}: {failed}"] if contender.ours else []
    facts = {
        "schema": "edgekit.benchmarks.memory/1", "texts": texts, "threads": args.threads, "figures": found,
        "left_out": absent, "broken": failures, "machine": {**before, "load_after": os.getloadavg()},
    }  # fmt: skip
    publish(args, f"MB (1,000,000 bytes), {texts} sentences\n\n{report(found)}", facts)
    for failure in failures:
        say(f"BROKEN {failure}")
    sys.exit(bool(failures))


def report(found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, one in found.items():
        taken = [
            one["phases"]["loaded"]["rss"], one["phases"]["batches"]["peak"], one["phases"]["one list"]["peak"],
            one["peak"], one["ten_times"]["long texts"]["peak"], one["pss"], one["uss"], one.get("weights"),
            one.get("bound"),
        ]  # fmt: skip
        rows.append([name, *(value and round(value / MB) for value in taken)])
    head = (
        "contender", "loaded", "peak: 32 at a time", "peak: one list", "peak: long texts", "peak: ten times",
        "PSS", "USS", "weights", "bound",
    )  # fmt: skip
    return table(head, rows)


if __name__ == "__main__":
    main()
