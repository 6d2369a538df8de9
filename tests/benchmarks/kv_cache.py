"""A decoder's caches on `cpu` in float32 and in int8: tokens per second, the time to read a prompt, and memory.

    python tests/benchmarks/kv_cache.py qwen3.ek --held 576 4096 -o kv.json

Both forms of the graph of a bundle whose caches are float32, which share its weights, in one process, in turns: both
read the same random prompt, in the pieces in which a device reads it, then each computes some tokens in every round. A
ratio is taken within a round, and the median over rounds is given, of wall time and of CPU time. `state` is what the
session says that its caches take, `resident` how much more memory the process had after the prompt was read; `apart` is
the Kullback-Leibler divergence of the next token's probabilities from those with caches in float32, the mean over all
steps; `repeats` are steps that were run again because a scale was too small.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _harness import machine, publish, say, spread, table

from edgekit import registry
from edgekit.bundle import manifest
from edgekit.core import Variant
from edgekit.workbench import graph

FORMS = ("float32", "int8")
MB = 1_000_000


def both(found: Variant, home: Path, folder: Path, threads: int) -> dict[str, Any]:
    """A session of each form; their graphs lie in `folder`."""
    from edgekit.targets._ort.passes.kv_int8_graph import quantize_caches

    (noun,) = found.graphs
    assert noun.prompt is not None
    models = {form: graph.load(home / noun.path) for form in FORMS}
    quantize_caches(models["int8"])
    prompt = graph.load(home / noun.prompt.path)
    graph.pack({f"{form}.onnx": model for form, model in models.items()} | {"prompt.onnx": prompt}, folder)
    described = graph.describe(prompt, "prompt", "prompt.onnx", {})
    sessions = {}
    for form, model in models.items():
        one = replace(graph.describe(model, form, f"{form}.onnx", {}, noun.states), prompt=described)
        sessions[form] = registry.find("targets", "cpu").open(folder, one, found.recipe, threads=threads, cache=folder)
    return sessions


def resident() -> int:
    """Anonymous memory, in bytes: weights that are mapped come and go as the system likes."""
    (line,) = (each for each in Path("/proc/self/status").read_text("ascii").splitlines() if each.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def read(session: Any, ids: Any, more: int) -> tuple[Any, dict[str, float]]:
    """The state after a prompt, in pieces; seconds and memory."""
    before, start, worked = resident(), time.perf_counter(), time.process_time()
    state = session.start(1, len(ids) + more)
    for piece in np.array_split(ids, -(-len(ids) // session.chunk_tokens)):
        feeds = {"input_ids": piece[None], "counts": np.array([len(piece)])}
        _, state = session.run(feeds | {"logit_positions": np.empty((1, 0), np.int64)}, state)
    return state, {
        "prompt": time.perf_counter() - start,
        "prompt_cpu": time.process_time() - worked,
        "resident": resident() - before,
        "state": session.nbytes(state),
    }


def steps(session: Any, state: Any, tokens: Any) -> tuple[float, float, Any]:
    """Seconds and CPU seconds a token, and the logits of each."""
    start, worked, found = time.perf_counter(), time.process_time(), []
    for token in tokens:
        outputs, state = session.run({"input_ids": token[None, None], "counts": np.array([1])}, state)
        found.append(outputs["logits"][0, 0].copy())
    count = len(tokens)
    return (time.perf_counter() - start) / count, (time.process_time() - worked) / count, np.stack(found)


def divergence(found: Any, wanted: Any) -> float:
    """Of each row of logits, the mean."""
    ours, theirs = (each - np.logaddexp.reduce(each.astype(np.float64), -1, keepdims=True) for each in (found, wanted))
    return float((np.exp(theirs) * (theirs - ours)).sum(-1).mean())


def measure(sessions: dict[str, Any], held: int, args: argparse.Namespace) -> dict[str, Any]:
    draw = np.random.default_rng(held)
    ids = draw.integers(0, args.tokens, held)
    states, forms = {}, {}
    for form, session in sessions.items():
        states[form], forms[form] = read(session, ids, (args.rounds + 1) * args.steps)
    rounds, apart = [], []
    for number in range(args.rounds + 1):
        tokens = draw.integers(0, args.tokens, args.steps)
        took = {form: steps(sessions[form], states[form], tokens) for form in (FORMS, FORMS[::-1])[number % 2]}
        apart.append(divergence(took["int8"][2], took["float32"][2]))
        if number:
            rounds.append({form: took[form][:2] for form in FORMS})
    for form in FORMS:
        forms[form]["tokens_per_second"] = 1 / median(one[form][0] for one in rounds)
    return {
        "held": held,
        "forms": forms,
        "ratio": spread([one["float32"][0] / one["int8"][0] for one in rounds]),
        "ratio_cpu": spread([one["float32"][1] / one["int8"][1] for one in rounds]),
        "apart": float(np.mean(apart)),
        "repeats": states["int8"].repeats,
        "rounds": rounds,
    }


def report(result: dict[str, Any]) -> str:
    rows = []
    for one in result["figures"]:
        compared = (one["ratio"]["median"], one["ratio_cpu"]["median"], f"{one['apart']:.1e}", one["repeats"])
        for form, last in zip(FORMS, ((None,) * 4, compared)):
            figures = one["forms"][form]
            sizes = [round(figures[key] / MB) for key in ("state", "resident")]
            rows.append([
                one["held"], form, figures["tokens_per_second"], *last[:2], figures["prompt"], figures["prompt_cpu"],
                *sizes, *last[2:],
            ])  # fmt: skip
    head = (
        "tokens held", "caches", "decode tokens/s", "× float32", "× in CPU time", "prompt s", "prompt CPU s",
        "state MB", "resident MB", "apart", "repeats",
    )  # fmt: skip
    return f"{result['bundle']}, {result['threads']} threads, {result['steps']} tokens a round\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="of a language model in int4 or int8, for cpu")
    parser.add_argument("--held", type=int, nargs="+", default=[576, 4096], help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16, help="tokens in a round (default: 16)")
    parser.add_argument("--tokens", type=int, default=1000, help="ids to draw from, from 0 (default: 1000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    args = parser.parse_args()
    before, found = machine(), manifest.read(args.bundle)
    (variant,) = (one for one in found.variants if one.target == "cpu" and one.recipe.weights in ("int4", "int8"))
    with tempfile.TemporaryDirectory() as folder:
        sessions = both(variant, found.folder, Path(folder), args.threads)
        say("both forms are open")
        figures = []
        for held in args.held:
            figures.append(measure(sessions, held, args))
            say(f"{held} tokens held: {figures[-1]['ratio']['median']:.2f} times as fast")
        for session in sessions.values():
            session.close()
    result: dict[str, Any] = {
        "schema": "edgekit.benchmarks.kv_cache/1",
        "bundle": f"{found.source.id} {variant.name}",
        "threads": args.threads,
        "steps": args.steps,
        "figures": figures,
        "machine": {**before, "load_after": os.getloadavg()},
    }
    publish(args, report(result), result)


if __name__ == "__main__":
    main()
