"""Tokens per second, time to the first token, loading and memory of language models, EdgeKit beside its peers.

    python tests/benchmarks/peer_envs.py --folder .peers
    python tests/benchmarks/peers_llm.py --peers .peers --config qwen3-0.6b/config.json -o qwen3.html

The same random weights for every contender, in four bits (groups of 32, symmetric; transformers in bfloat16), a prompt
of 512 random tokens, 128 new ones, greedily. Every contender is a process of its own. Rounds: in each, all answer the
same prompt, one after the other; every round has another prompt, so that no cache of prompts helps. A ratio is taken
within a round and the median over rounds is given. TTFT is from the call to the first token; decode is from the first
token to the last. `of the limit` is the share of the speed at which this machine could read the bytes of EdgeKit's int4
weights (measured before and after). What a contender says is not compared: made-up weights decide by a hair, and no two
of these round to four bits alike. `load` is the first ever: EdgeKit then checks digests and prepares what it keeps.
Peak is ru_maxrss at the end; `export` is what it took to make a contender's files from the safetensors (wall seconds,
peak of the largest process), on an idle machine only if it was idle then: delete the cache to have it measured again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from _harness import Company, arguments, busy_seconds, chosen, company, say, spread, table
from contenders import HERE, Contender, Maker, Stage
from peer_records import Told, check_output, publish

MAKERS = {
    "weights": Maker("", "weights"),
    "edgekit": Maker("", "edgekit"),
    "edgekit-kv8": Maker("", "edgekit-kv8"),
    "genai": Maker("peers-genai", "genai"),
    "openvino": Maker("peers-openvino", "openvino"),
    "openvino-head8": Maker("peers-openvino", "openvino-head8"),
    "gguf": Maker("peers-llama", "gguf"),
}
CONTENDERS = (
    Contender("edgekit cpu", "", "edgekit", "int4", {"loader": "edgekit", "target": "cpu"}),
    Contender("edgekit openvino", "", "edgekit", "int4", {"loader": "edgekit", "target": "openvino"}),
    Contender("edgekit cpu, 8-bit cache", "", "edgekit-kv8", "int4", {"loader": "edgekit", "target": "cpu"}),
    Contender("edgekit openvino, 8-bit cache", "", "edgekit-kv8", "int4", {"loader": "edgekit", "target": "openvino"}),
    Contender("onnxruntime-genai", "peers-genai", "genai", "int4", {"loader": "genai"}),
    Contender("openvino-genai", "peers-openvino", "openvino", "int4", {"loader": "openvino"}),
    Contender("openvino-genai, head in int8", "peers-openvino", "openvino-head8", "int4", {"loader": "openvino"}),
    Contender("llama-cpp-python", "peers-llama", "gguf", "Q4_0", {"loader": "llama"}),
    Contender("transformers bf16", "peers", "", "bf16", {"loader": "transformers"}),
)
MB = 1_000_000
Rounds = list[dict[str, dict[str, Any]]]


def stage(config: Path, peers: Path, cache: Path | None = None) -> Stage:
    """Weights of this config first: what all files are made from."""
    model = config.resolve().parent
    cache = (cache or peers / "llm").absolute() / model.name
    first = Stage(model, peers.absolute(), cache, MAKERS, "make_llm.py")
    if why := first.prepare(Contender("weights", "", "weights", "bf16")):
        raise SystemExit(f"error: {why}")
    return Stage(cache / "weights", first.peers, cache, MAKERS, "make_llm.py", "llm_worker.py")


def measure(here: Company, args: argparse.Namespace) -> Rounds:
    """All contenders' replies to a prompt a round; the first round, which warms up, is not kept."""
    rounds: Rounds = []
    for number in range(args.rounds + 1):
        request = {"do": "generate", "seed": number + args.seed, "prompt": args.prompt, "new": args.new}
        row = {}
        for name, worker in here.workers.items():
            busy = busy_seconds()
            row[name] = worker.ask(**request)
            own = row[name]["cpu_prompt"] + row[name]["cpu_reply"]
            row[name]["others"] = (busy_seconds() - busy - own) / row[name]["came"][-1]
        others = median(one["others"] for one in row.values())
        say(f"round {number} of {args.rounds}: {others:.2f} cores busy with other work")
        if number:
            rounds.append(row)
    return rounds


def speeds(reply: Mapping[str, Any]) -> dict[str, float]:
    """`ttft` s, `decode` tokens/s, CPU seconds."""
    came = reply["came"]
    return {
        "ttft": came[0],
        "decode": (len(came) - 1) / (came[-1] - came[0]),
        "cpu_prompt": reply["cpu_prompt"],
        "cpu_token": reply["cpu_reply"] / (len(came) - 1),
    }


def figures(rounds: Rounds) -> dict[str, dict[str, Any]]:
    """Per contender its speeds, and how many times every peer's they are, within each round."""
    rows = [{name: speeds(reply) for name, reply in row.items()} for row in rounds]
    found: dict[str, dict[str, Any]] = {}
    for name in rows[0]:
        peers = [peer for peer in rows[0] if not peer.startswith("edgekit") and peer != name]
        against = {peer: _against(name, [peer], rows) for peer in peers}
        if peers:
            against["the best peer"] = _against(name, peers, rows)
        found[name] = {key: spread([row[name][key] for row in rows]) for key in rows[0][name]} | {"against": against}
    return found


def _against(name: str, peers: Sequence[str], rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """How many times faster than the fastest of these, in each figure by itself."""
    decode = [row[name]["decode"] / max(row[peer]["decode"] for peer in peers) for row in rows]
    ttft = [min(row[peer]["ttft"] for peer in peers) / row[name]["ttft"] for row in rows]
    return {"decode": spread(decode), "ttft": spread(ttft)}


def weights(where: Stage) -> int:
    """Bytes of EdgeKit's int4 weights: what a token reads, beside its cache."""
    return (where.cache / "edgekit" / "weights.bin").stat().st_size


def bandwidth(threads: int) -> float:
    done = subprocess.run([sys.executable, HERE / "bandwidth.py", str(threads)], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config.json of a llama or a qwen3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default: 512)")
    parser.add_argument("--new", type=int, default=128, help="tokens of the reply (default: 128)")
    parser.add_argument("--seed", type=int, default=1000, help="of the first prompt")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.new = 2, 32
    check_output(args.output)
    where, contenders = stage(args.config, args.peers, args.cache), chosen(CONTENDERS, args.only)
    told = Told(args.config.resolve().parent.name, "text-generation", random=True, threads=args.threads)
    speed = bandwidth(args.threads)
    with company(where, contenders, args.threads) as here:
        result: dict[str, Any] = {
            "config": told.model,
            "prompt": args.prompt,
            "new": args.new,
            "threads": args.threads,
            "rounds": (rounds := measure(here, args)),
            "figures": (found := figures(rounds)),
        }
        for one in contenders:
            if one.name in found:
                found[one.name] |= {
                    "load": here.workers[one.name].loaded["load_seconds"],
                    "memory": here.workers[one.name].ask(do="memory"),
                    "export": where.cost(one) if one.files else None,
                }
    result["bandwidth"] = {"bytes_per_second": max(speed, bandwidth(args.threads)), "weights": weights(where)}
    rows = [row(told, one, result) for one in contenders if one.name in found]
    record = told.record("EdgeKit beside its peers", rows, __doc__ or "", result["bandwidth"]["bytes_per_second"])
    publish(args.output, report(result), record)


def row(told: Told, contender: Contender, result: Mapping[str, Any]) -> Any:
    """The contender's row of the record."""
    replies = [each[contender.name] for each in result["rounds"]]
    took = [speeds(reply) for reply in replies]
    values = {
        "load": [result["figures"][contender.name]["load"]],
        "ttft": [one["ttft"] for one in took],
        "tpot": [1 / one["decode"] for one in took],
        "itl": [after - before for reply in replies for before, after in pairwise(reply["came"])],
        "prefill": [result["prompt"] / one["ttft"] for one in took],
        "decode": [one["decode"] for one in took],
    }
    lengths = {"prompt": result["prompt"], "generate": result["new"], "depth": 0, "batch": 1}
    return told.row(
        contender,
        "llm",
        f"pp{result['prompt']}+tg{result['new']}",
        lengths,
        values,
        others=median(reply["others"] for reply in replies),
        peak=result["figures"][contender.name]["memory"]["peak"],
    )


def report(result: Mapping[str, Any]) -> str:
    rows = []
    limit = result["bandwidth"]["bytes_per_second"] / result["bandwidth"]["weights"]
    for name, one in result["figures"].items():
        best = one["against"].get("the best peer")
        rows.append([
            name, one["decode"]["median"], f"{one['decode']['min']:.1f} – {one['decode']['max']:.1f}",
            one["ttft"]["median"], best and f"{best['decode']['median']:.2f}", best and f"{best['ttft']['median']:.2f}",
            one["decode"]["median"] / limit, one["load"], round(one["memory"]["peak"] / MB),
            one["export"] and one["export"]["seconds"], one["export"] and round(one["export"]["peak"] / MB),
        ])  # fmt: skip
    head = (
        "contender", "decode tokens/s", "min – max", "TTFT s", "decode × best peer", "TTFT × best peer", "of the limit",
        "load s", "peak MB", "export s", "export MB",
    )  # fmt: skip
    return (
        f"{result['config']}, {result['threads']} threads, prompt {result['prompt']}, {result['new']} new tokens, "
        f"{len(result['rounds'])} rounds; memory reads {result['bandwidth']['bytes_per_second'] / 1e9:.1f} GB/s: "
        f"at most {limit:.0f} tokens/s of {result['bandwidth']['weights'] / MB:.0f} MB of weights\n\n"
        f"{table(head, rows)}"
    )


if __name__ == "__main__":
    main()
