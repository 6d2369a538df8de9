"""One contender in its own interpreter: loads a model, then answers JSON lines on stdin with JSON lines on stdout.

    python worker.py '{"loader": "sentence_transformers", "model": "FOLDER", "backend": "torch", "threads": 2}'

Knows how each library is asked for embeddings, and how to read its own clock and memory. Knows nothing of rounds,
ratios or who else takes part. Only the contender's own library is imported, and only when it is loaded, so that the
time from the start of the process is the library's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sentences import long_texts, sentences

Embed = Callable[[list[str]], Any]  # texts -> (n, d) numbers
PACKAGES = (
    "edgekit", "sentence-transformers", "fastembed", "torch", "transformers", "optimum", "optimum-onnx",
    "optimum-intel", "onnxruntime", "onnxruntime-genai", "openvino", "openvino-genai", "nncf", "llama-cpp-python",
    "tokenizers", "numpy",
)  # fmt: skip


def load_edgekit(spec: dict[str, Any]) -> Embed:
    import edgekit

    model = edgekit.load(spec["model"], target=spec["target"], precision=spec["precision"], threads=spec["threads"])
    return lambda texts: model.embed(texts, truncate=True)  # as every peer does: too long is cut, not refused


def load_sentence_transformers(spec: dict[str, Any]) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(spec["threads"])
    options: dict[str, Any] = {}
    if spec["backend"] == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = spec["threads"]
        options = {"file_name": spec["file"], "provider": "CPUExecutionProvider", "session_options": session}
    elif spec["backend"] == "openvino":
        config = {"INFERENCE_NUM_THREADS": spec["threads"], "PERFORMANCE_HINT": "LATENCY", **spec.get("config", {})}
        options = {"file_name": spec["file"], "ov_config": config}
    model = SentenceTransformer(
        spec["model"], device="cpu", backend=spec["backend"], model_kwargs=options, local_files_only=True
    )
    if spec["precision"] == "bf16" and spec["backend"] == "torch":
        model.bfloat16()
    return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False)


def load_fastembed(spec: dict[str, Any]) -> Embed:
    import numpy as np
    from fastembed import TextEmbedding  # type: ignore[import-not-found,unused-ignore]
    from fastembed.common.model_description import (  # type: ignore[import-not-found,unused-ignore]
        ModelSource,
        PoolingType,
    )

    TextEmbedding.add_custom_model(
        model="local/minilm", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/minilm"),
        dim=384, model_file="model.onnx",
    )  # fmt: skip
    model = TextEmbedding("local/minilm", specific_model_path=spec["model"], threads=spec["threads"])
    return lambda texts: np.stack(list(model.embed(texts, batch_size=32)))


LOADERS = {"edgekit": load_edgekit, "sentence_transformers": load_sentence_transformers, "fastembed": load_fastembed}


def batches(texts: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(texts), size):
        yield texts[first : first + size]


def answer(embed: Embed, request: dict[str, Any]) -> dict[str, Any]:
    """`time`, `vectors`, `long` or `memory`; the texts are named by their generator's arguments, not sent."""
    if request["do"] == "memory":
        return memory()
    if request["do"] == "long":
        texts = long_texts(request["count"])
    else:
        texts = sentences(**request.get("texts", {}))[request.get("first", 0) :][: request.get("count")]
        texts *= request.get("times", 1)
    if request["do"] == "vectors":
        import numpy as np

        np.save(request["file"], np.concatenate([embed(batch) for batch in batches(texts, request["batch"])]))
        return {"texts": len(texts)}
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches(texts, request["batch"] or len(texts)):
        embed(batch)
    return {
        "texts": len(texts),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def memory() -> dict[str, Any]:
    """Bytes. `peak`: the most that was ever resident; pss and uss: now, shared pages split or left out."""
    rollup = {}
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        for name, number, *_ in map(str.split, list(lines)[1:]):
            rollup[name.rstrip(":")] = int(number) * 1024
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss": rollup["Rss"],
        "pss": rollup["Pss"],
        "uss": rollup["Private_Clean"] + rollup["Private_Dirty"],
        "anonymous": rollup["Anonymous"],
    }


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def first(embed: Embed) -> list[float]:
    return [float(x) for x in embed(["The quick brown fox jumps over the lazy dog."])[0]]


def serve(
    loaders: Mapping[str, Callable[[dict[str, Any]], Any]],
    first: Callable[[Any], list[float]],
    answer: Callable[[Any, dict[str, Any]], dict[str, Any]],
) -> None:
    """Load what the first argument says, tell its first answer, then answer what comes on stdin, until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries that print must not break the protocol
    os.dup2(2, 1)

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    spec, begun = json.loads(sys.argv[1]), time.perf_counter()
    loaded = loaders[spec["loader"]](spec)
    seconds = time.perf_counter() - begun
    reply({"first": first(loaded), "load_seconds": seconds})
    for line in sys.stdin:
        request = json.loads(line)
        reply(versions() if request["do"] == "versions" else answer(loaded, request))


if __name__ == "__main__":
    serve(LOADERS, first, answer)
