"""Whether a text's vector depends on the texts beside it, and what that costs: bundles side by side.

    python tests/benchmarks/batch_invariance.py old.ek new.ek --precision int8
    python tests/benchmarks/batch_invariance.py new.ek --target openvino --precision int8

Per bundle: the cosine of each of 60 sentences' vectors alone with the same vector in a batch and in reverse order, how
many of the 60 lists of the ten nearest sentences change, and the cosine with the first bundle's fp32.
Then rounds in which every bundle embeds the same slice, one after the other, in turns; a ratio to the first bundle is
taken within a round, and the median over rounds is given, of wall-clock time and of CPU time: a busy machine moves the
second less. Sentences of 5 to 40 words, one at a time (batch 1) and 32 at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sentences import sentences

import edgekit

COUNT, NEAREST, SEED = 60, 10, 5


def nearest(vectors: Any) -> Any:
    """The ten nearest of each vector, best first, as numbers (n, 10)."""
    return np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")[:, :NEAREST]


def invariance(model: Any, texts: Sequence[str], truth: Any) -> str:
    alone = np.concatenate([model.embed(text) for text in texts])
    together, backwards = model.embed(texts), model.embed(texts[::-1])[::-1]
    cosine, reverse = (np.einsum("ij,ij->i", alone, other) for other in (together, backwards))
    moved = int((nearest(alone) != nearest(together)).any(axis=1).sum())
    said = f"alone/batch cosine min {cosine.min():.7f} mean {cosine.mean():.7f}, reverse min {reverse.min():.7f}, "
    exact = np.einsum("ij,ij->i", together, truth)
    return f"{said}lists of {NEAREST} that change {moved} of {len(texts)}, with fp32 {exact.mean():.5f}"


def timed(model: Any, texts: Sequence[str], batch: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), batch):
        model.embed(texts[first : first + batch])
    return time.perf_counter() - wall, time.process_time() - cpu


def rounds(models: Mapping[str, Any], texts: Sequence[str], batch: int, count: int, number: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(number):
        first = turn * count % (len(texts) - count)
        order = list(models.items())[:: 1 if turn % 2 else -1]
        for name, model in order:
            found[name].append(timed(model, texts[first : first + count], batch))
    base = next(iter(found.values()))
    for name, values in found.items():
        wall, cpu = (median(b[at] / one[at] for b, one in zip(base, values, strict=True)) for at in (0, 1))
        rate, each = count / median(one[0] for one in values), 1e3 * median(one[1] for one in values) / count
        print(f"batch {batch:2d} {name}: {rate:.1f} sentences/s, CPU {each:.2f} ms; speed {wall:.3f}, by CPU {cpu:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    texts = sentences(512, SEED, 5, 40)
    options = {"target": args.target, "threads": args.threads}
    with edgekit.load(args.bundles[0], precision="fp32", **options) as exact:
        truth = exact.embed(texts[:COUNT])
    with ExitStack() as stack:
        models = {
            str(path): stack.enter_context(edgekit.load(path, precision=args.precision, **options))
            for path in args.bundles
        }
        for name, model in models.items():
            print(f"{name}: {invariance(model, texts[:COUNT], truth)}", flush=True)
        for batch, count in ((1, 24), (32, 64)):
            rounds(models, texts, batch, count, args.rounds)


if __name__ == "__main__":
    main()
