"""A language model on `openvino` with several settings of the engine: time for a prompt, tokens per second, loss.

    edgekit export random:qwen3-0.6b/config.json --precision int4 --target openvino -o qwen3.ek
    python tests/benchmarks/openvino_options.py qwen3.ek --held 128 512 \\
        --with DYNAMIC_QUANTIZATION_GROUP_SIZE=128,KV_CACHE_PRECISION=f16 \\
        --with DYNAMIC_QUANTIZATION_GROUP_SIZE=0 --with KV_CACHE_PRECISION=u8

The bundle's own settings, then each of `--with` on top of them, in one process, in turns: in every round each reads the
same random prompt and computes some tokens after it. Wall time and CPU time; a ratio to the bundle's own settings is
taken within a round, and the median over rounds is given (above 1: better than they are). `apart` is the
Kullback-Leibler divergence of the next token's probabilities from those of the bundle's own settings, the mean over all
steps; 0 means that every logit is the same. `caches` says whether the engine keeps them in blocks.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from _harness import machine, publish, say, spread, table
from kv_cache import divergence, read, steps

from edgekit import registry
from edgekit.bundle import manifest
from edgekit.core import Variant
from edgekit.targets._openvino.pages import PagedSession

OWN = "the bundle's own"


def settings(text: str) -> dict[str, str]:
    """`NAME=VALUE,NAME=VALUE` as a mapping."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,NAME=VALUE")
    return {name: value for name, _, value in pairs}


def sessions(variant: Variant, home: Path, args: argparse.Namespace) -> dict[str, Any]:
    """An open session of each form, by its name."""
    (noun,) = variant.graphs
    target, forms = registry.find("targets", "openvino"), {OWN: dict[str, str]()}
    forms |= {", ".join(f"{name}={value}" for name, value in one.items()): one for one in args.forms}
    return {
        name: target.open(home, noun, variant.recipe, threads=args.threads, options=variant.options | form)
        for name, form in forms.items()
    }


def once(session: Any, prompt: Any, tokens: Any) -> tuple[dict[str, float], Any]:
    """Seconds for the prompt and for a token, the same of CPU time, and the logits of each token."""
    state, took = read(session, prompt, len(tokens))
    token, token_cpu, logits = steps(session, state, tokens)
    return {
        "prompt": took["prompt"],
        "prompt_cpu": took["prompt_cpu"],
        "token": token,
        "token_cpu": token_cpu,
    }, logits


def measure(opened: dict[str, Any], held: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry per form; the first round makes kernels and is left out."""
    draw, rounds, apart = np.random.default_rng(held), list[dict[str, dict[str, float]]](), list[dict[str, float]]()
    vocabulary = opened[OWN].vocabulary
    for number in range(args.rounds + 1):
        prompt, tokens = draw.integers(0, vocabulary, held), draw.integers(0, vocabulary, args.steps)
        turns = list(opened.items())[:: 1 if number % 2 else -1]
        row = {name: once(session, prompt, tokens) for name, session in turns}
        if number:
            rounds.append({name: took for name, (took, _) in row.items()})
            apart.append({name: divergence(logits, row[OWN][1]) for name, (_, logits) in row.items()})
    keys = rounds[0][OWN]
    return [
        {
            "held": held,
            "form": name,
            "caches": "blocks" if isinstance(session, PagedSession) else "inside",
            "took": {key: spread([row[name][key] for row in rounds]) for key in keys},
            "ratio": {key: spread([row[OWN][key] / row[name][key] for row in rounds]) for key in keys},
            "apart": float(np.mean([row[name] for row in apart])),
        }
        for name, session in opened.items()
    ]


def report(result: dict[str, Any]) -> str:
    rows = []
    for one in result["figures"]:
        took, ratio = ({key: one[what][key]["median"] for key in one[what]} for what in ("took", "ratio"))
        rows.append([
            one["held"], one["form"], one["caches"], took["prompt"], ratio["prompt"], ratio["prompt_cpu"],
            1 / took["token"], ratio["token"], ratio["token_cpu"], f"{one['apart']:.1e}",
        ])  # fmt: skip
    head = (
        "tokens held", "settings", "caches", "prompt s", "× own", "× in CPU time", "decode tokens/s", "× own",
        "× in CPU time", "apart",
    )  # fmt: skip
    return f"{result['bundle']}, {result['threads']} threads, {result['steps']} tokens a round\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="of a language model, for openvino")
    parser.add_argument("--with", dest="forms", type=settings, action="append", default=[], metavar="NAME=VALUE,…")
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--held", type=int, nargs="+", default=[128, 512], help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16, help="tokens in a round (default: 16)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    args = parser.parse_args()
    before, found = machine(), manifest.read(args.bundle)
    variant = next(one for one in found.variants if (one.target, one.recipe.weights) == ("openvino", args.precision))
    opened, figures = sessions(variant, found.folder, args), []
    say(f"{before['cpu']}: {len(opened)} forms are open")
    for held in args.held:
        figures += measure(opened, held, args)
        say(f"{held} tokens held")
    for session in opened.values():
        session.close()
    result = {
        "schema": "edgekit.benchmarks.openvino_options/1",
        "bundle": f"{found.source.id} {variant.name}",
        "threads": args.threads,
        "steps": args.steps,
        "figures": figures,
        "machine": {**before, "load_after": os.getloadavg()},
    }
    publish(args, report(result), result)


if __name__ == "__main__":
    main()
