"""How far the forecast of memory is from what processes take: the figures of each target's `footprint` are from here.

    python tests/benchmarks/forecast_fit.py minilm.ek qwen3.ek --batch 1 4 --tokens 160 640 -o forecast.json

Each variant of each bundle runs in a fresh process, which says what it has resident once the engine is imported, once
the model is open, and at its peak (VmHWM): a base is the second of a zoo model, `weights` and `tied` the difference
between that and a large model's, `live` and `state` what more tokens add. A decoder reads four fifths of the tokens as
a prompt and writes the rest. `--twice` opens each model twice, as compiled forms are then at hand: it is the second
process that is told. The ratio leaves shared libraries out: how much of their code is resident, the kernel decides (80
to 112 MB of OpenVINO's, 48 to 65 of ONNX Runtime's, the more the newer their files are). Ends with exit code 1 where a
forecast is too low.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MB = 1_000_000
LOW = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--tokens", nargs="+", type=int, default=[64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    rows = [row for folder in args.bundles for row in told(folder, args)]
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["ratio"] < LOW for row in rows))


def told(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    from edgekit.bundle import manifest
    from edgekit.forecast import forecast

    found, rows = manifest.read(folder), []
    for variant in found.variants:
        for batch in args.batch:
            for tokens in args.tokens:
                order = [str(folder), variant.target, variant.recipe.name, str(batch), str(tokens), str(args.threads)]
                for _ in range(1 + args.twice):
                    measured = measure(order)
                said = forecast(found, variant, batch=batch, tokens=measured["tokens"], threads=args.threads)
                row = {
                    "bundle": folder.name, "variant": variant.name, "batch": batch, **measured,
                    "forecast": {name: getattr(said, name) for name in said.__dataclass_fields__},
                    "ratio": (said.total - said.libraries) / (measured["peak"] - measured["libraries"]),
                }  # fmt: skip
                rows.append(row)
                parts = " ".join(f"{name} {size / MB:.0f}" for name, size in row["forecast"].items())
                print(
                    f"{folder.name:14} {variant.name:26} {batch:3} x {measured['tokens']:5}  "
                    f"imported {measured['imported'] / MB:5.0f} opened {measured['opened'] / MB:6.0f} "
                    f"peak {measured['peak'] / MB:6.0f} libraries {measured['libraries'] / MB:4.0f}  "
                    f"forecast {row['ratio']:.2f}  ({parts})",
                    flush=True,
                )
    return rows


def measure(order: list[str]) -> dict[str, int]:
    done = subprocess.run([sys.executable, __file__, "--worker", *order], stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(folder: str, target: str, precision: str, batch: int, tokens: int, threads: int) -> dict[str, int]:
    """In the fresh process. The engine is imported by itself first, so that its own share is seen."""
    import importlib

    import edgekit

    importlib.import_module({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    imported = resident("VmRSS")
    with edgekit.load(folder, target=target, precision=precision, threads=threads) as model:
        opened = resident("VmRSS")
        used = run(model, batch, tokens)
    from edgekit.measuring import process_memory

    found = {"imported": imported, "opened": opened, "tokens": used}
    return {**found, "peak": resident("VmHWM"), "libraries": process_memory.libraries() or 0}


def run(model: Any, batch: int, tokens: int) -> int:
    """So many rows, three times but of a decoder; gives how many tokens each really had."""
    import numpy as np

    drawn = np.random.default_rng(0)
    if model.graph().kind == "decoder":
        return decode(model, drawn, batch, tokens)
    if model.INPUT == "series":
        width = len(model.settings["features"])
        items: list[Any] = [drawn.standard_normal((tokens, width), np.float32) for _ in range(batch)]
    elif model.INPUT == "text":
        items, tokens = texts(model, batch, tokens)
    else:  # of one size, whatever they are
        known = [model.item(sample) for sample in model.samples(model.bundle)]
        items, tokens = (known * batch)[:batch], 1
    for _ in range(3):
        list(model.run(items))
    return tokens


def texts(model: Any, batch: int, tokens: int) -> tuple[list[str], int]:
    """Texts of so many tokens, or as many as the model takes."""
    words = [["seven"] * count for count in range(1, tokens + 1)]
    fitting = [text for each in words if len(model.encode([text := " ".join(each)])[0]) <= tokens]
    longest = max(fitting, key=lambda text: len(model.encode([text])[0]))
    return [longest] * batch, len(model.encode([longest])[0])


class Row:
    """A prompt whose answer is always as long as was asked for."""

    def __init__(self, ids: list[int], most: int) -> None:
        self.ids, self.most, self.said = ids, most, 0

    def choose(self, logits: Any) -> Any:
        from edgekit.runtimes.sampling import Choice

        return Choice(int(logits.argmax()))

    def ends(self, choice: Any) -> bool:
        self.said += 1
        return self.said >= self.most


def decode(model: Any, drawn: Any, batch: int, tokens: int) -> int:
    from edgekit import registry

    tokens = min(tokens, model.bundle.settings.get("context_length") or tokens)
    new = max(1, tokens // 5)
    vocabulary = model.bundle.settings["vocab_size"]
    rows = [Row(drawn.integers(0, vocabulary, tokens - new).tolist(), new) for _ in range(batch)]
    for _ in registry.find("loops", "decode").decode(model.session_of(), rows):
        pass
    return tokens


def resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        where, *sizes = sys.argv[2:5], *map(int, sys.argv[5:])
        print(json.dumps(work(*where, *sizes)))
    else:
        main()
