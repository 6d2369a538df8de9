"""A state-space language model beside transformers: prompts of different length, decode, and what a state takes.

    python tests/benchmarks/peer_envs.py --folder .peers        # for llama.cpp; without it that is left out
    python tests/benchmarks/state_space.py CONFIG.json --lengths 512 8192 --peers .peers -o state_space.json

CONFIG is a config.json (mamba-130m's, say); weights are made up, in the same shapes for all. Two threads, in turns: in
every round each contender reads a new random prompt of the length and then says some tokens, one by one. `state` is
what a session says that its state takes after the prompt; transformers' cache is counted as it lies there. transformers
takes its own path for a CPU, in float32 and bfloat16. llama.cpp, in Q4_0 by way of its Python package, is a process of
its own, which is stopped while others are measured; it knows mamba, and of the other architectures nothing here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _harness import Worker, machine, publish, say, table
from contenders import Contender
from peers_llm import stage

import edgekit

NEW = 33  # the first comes with the prompt
Answer = Callable[[list[int]], dict[str, Any]]


def ours(model: edgekit.Model) -> Answer:
    def answer(ids: list[int]) -> dict[str, Any]:
        with model.session() as session:
            timings = session.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, temperature=0).timings
            state = model.session_of().nbytes(session._state)
        return {"prompt": timings["ttft"], "token": timings["tpot"], "state": state}

    return answer


def theirs(config: Path, dtype: str) -> Answer:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config), dtype=getattr(torch, dtype)).eval()

    def answer(ids: list[int]) -> dict[str, Any]:
        with torch.inference_mode():
            came, given, cache = [time.perf_counter()], torch.tensor([ids]), None
            for _ in range(NEW):
                told = {} if cache is None else {"cache_params": cache}
                out = model(given, use_cache=True, logits_to_keep=1, **told)
                cache, given = out.cache_params, out.logits[:, -1:].argmax(-1)
                came.append(time.perf_counter())
        return {"prompt": came[1] - came[0], "token": (came[-1] - came[1]) / (NEW - 1), "state": held(cache)}

    return answer


def llama(config: Path, peers: Path, context: int, stack: ExitStack) -> dict[str, Answer]:
    """llama.cpp with the model opened, or nobody, saying why."""
    contender = Contender("llama.cpp Q4_0", "peers-llama", "gguf", "Q4_0", {"loader": "llama", "context": context})
    where = stage(config, peers)
    if why := where.prepare(contender):
        say(f"{contender.name}: left out: {why}")
        return {}
    worker = stack.enter_context(Worker(where, contender, 2))

    def answer(ids: list[int]) -> dict[str, Any]:
        came = worker.ask(do="generate", seed=sum(ids), prompt=len(ids), new=NEW)["came"]
        return {"prompt": came[0], "token": (came[-1] - came[0]) / (NEW - 1), "state": None}

    return {contender.name: answer}


def held(cache: Any) -> int:
    """Bytes of all tensors that a cache of transformers holds."""
    import torch

    seen: dict[int, int] = {}

    def look(thing: Any, depth: int) -> None:
        if isinstance(thing, torch.Tensor):
            seen[thing.data_ptr()] = thing.nbytes
        elif depth and isinstance(thing, dict | list | tuple):
            for each in thing.values() if isinstance(thing, dict) else thing:
                look(each, depth - 1)
        elif depth and hasattr(thing, "__dict__"):
            look(vars(thing), depth)

    look(cache, 5)
    return sum(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 8192], help="tokens of the prompts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", default="none", help="leave out contenders with this in their name")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="made by peer_envs.py (default: .peers)")
    parser.add_argument("-o", "--output", type=Path, help="write all figures to this JSON file")
    args, before, draw = parser.parse_args(), machine(), np.random.default_rng(0)
    tokens = json.loads(args.config.read_text())["vocab_size"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets, precisions = ["cpu", "openvino"], ["fp32", "int4"]
        edgekit.export(f"random:{args.config}", folder / "made.ek", targets=targets, precision=precisions)
        say("exported")
        contenders = {"transformers float32": theirs(args.config, "float32")}
        contenders["transformers bfloat16"] = theirs(args.config, "bfloat16")
        for target in targets:
            for precision in precisions:
                opened = edgekit.load(folder / "made.ek", target=target, precision=precision, threads=2)
                contenders[f"edgekit {target} {precision}"] = ours(stack.enter_context(opened))
        contenders |= llama(args.config, args.peers, max(args.lengths) + NEW, stack)
        contenders = {name: answer for name, answer in contenders.items() if args.without not in name}
        found: dict[int, dict[str, list[dict[str, Any]]]] = {}
        for length in args.lengths:
            took = found.setdefault(length, {name: [] for name in contenders})
            for number in range(args.rounds + 1):
                ids = draw.integers(3, tokens, length if number else 64).tolist()
                for name, answer in contenders.items():
                    one = answer(ids)
                    if number:  # the first is short, for warming up
                        took[name].append(one)
                say(f"{length} tokens, round {number} of {args.rounds}")
    rows = [
        (length, name, *(median(one[key] for one in each) for key in ("prompt",)),
         1 / median(one["token"] for one in each), None if each[-1]["state"] is None else each[-1]["state"] / 1e6)
        for length, of in found.items() for name, each in of.items()
    ]  # fmt: skip
    text = table(("prompt tokens", "", "prompt s", "tokens/s after it", "state MB"), rows)
    result = {
        "schema": "edgekit.benchmarks.state_space/1",
        "config": args.config.parent.name,
        "figures": found,
        "machine": {**before, "load_after": os.getloadavg()},
    }
    publish(args, text, result)


if __name__ == "__main__":
    main()
