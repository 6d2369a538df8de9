"""A language model's caches in OpenVINO inside the model, and in blocks beside it: a prompt, another turn, one token.

    python tests/benchmarks/paged.py qwen3.ek --held 512 2048

Both forms of one bundle's graph, in one process, in turns: each reads the same random prompt in the pieces in which a
device reads it, then a turn of `--turn` tokens, then `--steps` single ones. A ratio is taken within a round, and the
median over rounds is given: how many times sooner the blocks are done. `apart` is the largest difference between the
two forms' logits after the turn, of the largest logit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from _harness import machine, say, table

from edgekit import registry
from edgekit.bundle import manifest
from edgekit.core import Variant


def both(found: Variant, home: Path, threads: int) -> dict[str, Any]:
    """A session of each form."""
    (noun,) = found.graphs
    target = registry.find("targets", "openvino")

    def session() -> Any:
        return target.open(home, noun, found.recipe, threads=threads, options=found.options)

    with mock.patch.object(target, "pageable", return_value=False):
        inside = session()
    sessions = {"inside": inside, "blocks": session()}
    if type(sessions["blocks"]) is type(inside):
        raise SystemExit("error: this graph's caches are inside the model here in any case")
    return sessions


def feeds(ids: Any) -> dict[str, Any]:
    return {"input_ids": ids[None], "counts": np.array([len(ids)])}


def once(session: Any, prompt: Any, turn: Any, tokens: Any) -> tuple[dict[str, float], Any]:
    """Seconds for the prompt, the turn, and a token; the logits after the turn."""
    state, took = session.start(1, len(prompt) + len(turn) + len(tokens)), {}
    begun = time.perf_counter()
    for piece in np.array_split(prompt, -(-len(prompt) // session.chunk_tokens)):
        session.run(feeds(piece), state)
    took["prompt"], begun = time.perf_counter() - begun, time.perf_counter()
    logits = session.run(feeds(turn), state)[0]["logits"].copy()
    took["turn"], begun = time.perf_counter() - begun, time.perf_counter()
    for token in tokens:
        session.run(feeds(token[None]), state)
    took["token"] = (time.perf_counter() - begun) / len(tokens)
    return took, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--held", nargs="+", type=int, default=[512, 2048], help="tokens of the prompt")
    parser.add_argument("--turn", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    found = manifest.read(args.bundle)
    variant = next(each for each in found.variants if each.target == "openvino")
    sessions, draw, rows = both(variant, args.bundle, args.threads), np.random.default_rng(0), list[list[Any]]()
    vocabulary = sessions["blocks"].vocabulary
    say(f"{machine()['cpu']}, {args.threads} threads, {variant.name}")
    for held in args.held:
        rounds = []
        for number in range(args.rounds + 1):
            parts = [draw.integers(0, vocabulary, count) for count in (held, args.turn, args.steps)]
            row = {name: once(session, *parts) for name, session in sessions.items()}
            if number:  # the first one makes kernels
                rounds.append(row)
        for part in ("prompt", "turn", "token"):
            seconds = {name: median(row[name][0][part] for row in rounds) for name in sessions}
            ratio = median(row["inside"][0][part] / row["blocks"][0][part] for row in rounds)
            rows.append([held, part, seconds["inside"], seconds["blocks"], ratio])
        apart = max(
            np.abs(row["blocks"][1] - row["inside"][1]).max() / np.abs(row["inside"][1]).max() for row in rounds
        )
        say(f"{held} tokens held: apart by {apart:.1e}")
    print(table(["tokens held", "what", "inside, s", "blocks, s", "times sooner"], rows))


if __name__ == "__main__":
    main()
