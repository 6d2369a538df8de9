"""Sentences per second of text embedding, EdgeKit beside its peers.

    python tests/benchmarks/embed_throughput.py --peers .peers -o throughput.html
    python tests/benchmarks/embed_throughput.py --peers .peers --quick

all-MiniLM-L6-v2 on sentences of 5 to 40 words, handed over one at a time (batch 1) and 32 at a time. Every contender is
a process of its own, loaded once and warmed up. Then rounds: in each, every contender embeds the same slice, one after
the other, A B C A B C …; slices differ from round to round. A ratio is taken within a round, where both sides met the
same sentences within the same half minute, and the median over rounds is given: a busy machine moves every figure, but
the ratio less. `vs same` compares with the fastest peer of the same arithmetic (fp32, bf16, int8), `vs any` with the
fastest peer of all. `cosine` is the agreement with sentence-transformers' fp32 on one sentence, from the very
processes that are timed: a fast wrong run is seen. (Agreement in full: embed_accuracy.py.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from _harness import (
    Company,
    arguments,
    busy_seconds,
    chosen,
    company,
    cosine,
    say,
    spread,
    stage_of,
    table,
)
from contenders import EDGEKIT, PEERS, REFERENCE, Contender
from peer_records import Told, check_output, publish

TEXTS = {"n": 2000, "seed": 5, "shortest": 5, "longest": 40}
ALIKE = 0.95  # cosine to the reference's vector, from which on it may be this model's
QUICK = (*EDGEKIT, REFERENCE, *(peer for peer in PEERS if peer.spec["loader"] == "fastembed"))
Rounds = list[dict[str, dict[str, Any]]]  # per round: contender's name -> the worker's reply


def warm_up(here: Company, batch: int, count: int) -> None:
    """Whole slices until one takes within 5 % of the last, at most six: engines compile for new shapes at first."""
    for worker in here.workers.values():
        before = 0.0
        for _ in range(6):
            seconds = worker.ask(do="time", texts=TEXTS, first=0, count=count, batch=batch)["seconds"]
            if abs(seconds - before) < 0.05 * seconds:
                break
            before = seconds


def measure(here: Company, batch: int, count: int, rounds: int) -> tuple[Rounds, float]:
    """The rounds, and how many cores other work of this machine kept busy meanwhile."""
    found: Rounds = []
    others = []
    for number in range(rounds):
        begun, busy = time.perf_counter(), busy_seconds()
        first = number * count % (TEXTS["n"] - count)
        found.append({
            name: worker.ask(do="time", texts=TEXTS, first=first, count=count, batch=batch)
            for name, worker in here.workers.items()
        })  # fmt: skip
        own = sum(one["cpu_seconds"] for one in found[-1].values())
        others.append((busy_seconds() - busy - own) / (time.perf_counter() - begun))
        say(f"batch {batch}: round {number + 1} of {rounds}; {others[-1]:.2f} cores busy with other work")
    return found, median(others)


def figures(rounds: Rounds, contenders: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    """Per contender: sentences/s over rounds, and within each round the ratio to the fastest peer."""
    rates = [{name: one["texts"] / one["seconds"] for name, one in row.items()} for row in rounds]
    here = [one for one in contenders if one.name in rates[0]]
    found = {}
    for one in here:
        peers = [peer for peer in here if not peer.ours and peer is not one]
        same = [peer for peer in peers if peer.precision == one.precision]
        mine = [row[one.name] for row in rounds]
        found[one.name] = {
            "sentences_per_second": spread([row[one.name] for row in rates]),
            "cpu_ms_per_sentence": 1e3 * median(row["cpu_seconds"] / row["texts"] for row in mine),
            "vs_same": _ratio(one, same, rates),
            "vs_any": _ratio(one, peers, rates),
        }
    return found


def _ratio(one: Contender, peers: Sequence[Contender], rates: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    if not peers:
        return None
    ratios = [row[one.name] / max(row[peer.name] for peer in peers) for row in rates]
    best = max(peers, key=lambda peer: median(row[peer.name] for row in rates))
    return {**spread(ratios), "fastest_peer": best.name}


def agreement(here: Company) -> dict[str, float]:
    """Cosine of each contender's first vector to the reference's; none without the reference."""
    if REFERENCE.name not in here.workers:
        return {}
    truth = here.workers[REFERENCE.name].loaded["first"]
    return {name: cosine(worker.loaded["first"], truth) for name, worker in here.workers.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=256, help="sentences per slice at batch 32; a quarter at batch 1")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.count = 3, 64
    contenders = chosen(QUICK if args.quick else (*EDGEKIT, *PEERS), args.only)
    check_output(args.output)
    told = Told("all-MiniLM-L6-v2", "feature-extraction", random=False, threads=args.threads)
    result: dict[str, Any] = {"threads": args.threads}
    with company(stage_of(args), contenders, args.threads) as here:
        result["cosine"] = agreement(here)
        for batch, count in ((1, args.count // 4), (32, args.count)):
            warm_up(here, batch, count)
            rounds, others = measure(here, batch, count, args.rounds)
            found = figures(rounds, contenders)
            result[f"batch_{batch}"] = {"figures": found, "cores_busy_with_other_work": others, "rounds": rounds}
    rows = [row(told, one, result, batch) for one in contenders if one.name in found for batch in (1, 32)]
    record = told.record("EdgeKit beside its peers", rows, __doc__ or "")
    publish(args.output, "\n\n".join(report(result, batch) for batch in (1, 32)), record)


def row(told: Told, contender: Contender, result: Mapping[str, Any], batch: int) -> Any:
    """The contender's row of the record. A vector that is none of this model's is wrong, however fast it came."""
    measured, alike = result[f"batch_{batch}"], result["cosine"].get(contender.name)
    replies = [each[contender.name] for each in measured["rounds"]]
    seconds = [reply["seconds"] / reply["texts"] for reply in replies]
    values = {"latency": seconds} if batch == 1 else {"throughput": [1 / one for one in seconds]}
    return told.row(
        contender,
        "single-stream" if batch == 1 else "offline",
        "single" if batch == 1 else f"batch {batch}",
        {"batch": batch},
        values,
        others=measured["cores_busy_with_other_work"],
        check=f"its first vector has a cosine of {alike:.3f}" if alike is not None and alike < ALIKE else "",
    )


def report(result: Mapping[str, Any], batch: int) -> str:
    rows = []
    for name, one in result[f"batch_{batch}"]["figures"].items():
        rate = one["sentences_per_second"]
        rows.append([
            name, rate["median"], f"{rate['min']:.0f} – {rate['max']:.0f}", one["cpu_ms_per_sentence"],
            *(one[key] and f"{one[key]['median']:.2f}" for key in ("vs_same", "vs_any")),
            f"{result['cosine'][name]:.5f}" if name in result["cosine"] else None,
        ])  # fmt: skip
    head = ("contender", "sentences/s", "min – max", "CPU ms/sentence", "vs same", "vs any", "cosine")
    others = result[f"batch_{batch}"]["cores_busy_with_other_work"]
    return (
        f"Batch {batch}, {result['threads']} threads each; other work kept {others:.2f} cores busy meanwhile\n\n"
        f"{table(head, rows)}"
    )


if __name__ == "__main__":
    main()
