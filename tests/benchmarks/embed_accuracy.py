"""Whether EdgeKit's embeddings are the model's own: against sentence-transformers in fp32, on 1,000 sentences.

    python tests/benchmarks/embed_accuracy.py --peers .peers -o accuracy.json

The reference is sentence-transformers with torch in fp32, batches of 32, from the environment `peers` or, where that
is absent, from this interpreter. Per contender: least and mean cosine of a sentence's vector to the reference's, and
Spearman's rank correlation of all pairwise cosines (499,500 pairs for 1,000 sentences), which is what search and
clustering feel. Quantized peers stand beside, so that speed can be weighed against accuracy. Ends with exit code 1
where EdgeKit breaks what it promises:

    fp32    cosine at least 0.99999 for every sentence
    int8    cosine at least 0.98 in the mean, Spearman at least 0.99
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Worker, WorkerFailed, arguments, chosen, machine, publish, say, stage_of, table
from contenders import EDGEKIT, PEERS, REFERENCE, Contender, Stage
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
SEED = 20261201  # not the default: the strength of smoothing was chosen on that one's sentences
# precision -> figure -> the least that is promised
PROMISED = {"fp32": {"cosine_min": 0.99999}, "int8": {"cosine_mean": 0.98, "spearman": 0.99}}


def vectors(stage: Stage, contender: Contender, threads: int, n: int) -> Floats:
    """What the contender makes of the sentences, (n, d). Raises WorkerFailed."""
    with Worker(stage, contender, threads) as worker, tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "vectors.npy")
        worker.ask(do="vectors", texts={"n": n, "seed": SEED}, batch=32, file=file)
        found: Floats = np.load(file).astype(np.float64)
        return found


def reference(stage: Stage, threads: int, n: int) -> Floats:
    contender = REFERENCE
    if stage.prepare(contender):
        if importlib.util.find_spec("sentence_transformers") is None:
            sys.exit("error: no reference to compare with\nhint: python tests/benchmarks/peer_envs.py")
        contender = replace(contender, env="")
    try:
        return vectors(stage, contender, threads, n)
    except WorkerFailed as failed:
        sys.exit(f"error: the reference failed: {failed}")


def compare(found: Floats, truth: Floats) -> dict[str, float]:
    cosines = (unit(found) * unit(truth)).sum(axis=1)
    return {
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "spearman": spearman(pairwise(found), pairwise(truth)),
        "largest_difference": float(np.abs(found - truth).max()),
    }


def unit(vectors: Floats) -> Floats:
    found: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def pairwise(vectors: Floats) -> Floats:
    """The cosine of every pair, once: (n (n - 1) / 2,)."""
    directions = unit(vectors)
    found: Floats = (directions @ directions.T)[np.triu_indices(len(vectors), k=1)]
    return found


def spearman(a: Floats, b: Floats) -> float:
    """Pearson's correlation of the ranks; equal values share their mean rank."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Floats = (last - (counts - 1) / 2)[inverse]
    return found


def broken(contender: Contender, figures: dict[str, float]) -> list[str]:
    promised = PROMISED.get(contender.precision, {}) if contender.ours else {}
    return [
        f"{contender.name}: {figure} is {figures[figure]:.7f}, promised {least}"
        for figure, least in promised.items()
        if not figures[figure] >= least  # NaN breaks the promise too
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("-n", type=int, default=1000, help="sentences (default: 1000)")
    args = parser.parse_args()
    contenders = chosen(EDGEKIT if args.quick else (*EDGEKIT, *PEERS), args.only)
    n = min(args.n, 200) if args.quick else args.n
    stage = stage_of(args)
    truth = reference(stage, args.threads, n)
    found: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    failures: list[str] = []
    for contender in contenders:
        try:
            if why := stage.prepare(contender):
                raise WorkerFailed(why)
            found[contender.name] = compare(vectors(stage, contender, args.threads, n), truth)
            failures += broken(contender, found[contender.name])
        except WorkerFailed as failed:
            absent[contender.name] = str(failed)
            say(f"{contender.name}: left out: {failed}")
            failures += [f"{contender.name}: {failed}"] if contender.ours else []
    rows = [[name, *(f"{value:.7f}" for value in figures.values())] for name, figures in found.items()]
    head = ("contender", "least cosine", "mean cosine", "Spearman", "largest difference")
    facts = {
        "schema": "edgekit.benchmarks.accuracy/1", "sentences": n, "seed": SEED, "promised": PROMISED,
        "figures": found, "left_out": absent, "broken": failures, "machine": machine(),
    }  # fmt: skip
    publish(args, f"{n} sentences against {REFERENCE.name}\n\n{table(head, rows)}", facts)
    for failure in failures:
        say(f"BROKEN {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
