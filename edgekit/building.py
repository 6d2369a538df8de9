"""The road by building: a graph written from config and weights, without torch, for `edgekit.export`.

Knows no architecture; the exporter writes the graph. The reference is the same graph in float32, run as it is, before
any target's form of it; that the exporter computes what transformers does is proved by its tests, for every
architecture, as the workbench of a user may have no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit import device, registry
from edgekit.core import Graph, Recipe, Source

if TYPE_CHECKING:
    from edgekit.core import Array, Bundle
    from edgekit.export import Reference, Workbench


def prepare(bench: Workbench, bundle: Bundle, items: list[Any]) -> Reference:
    """The samples' tokens and the unquantized graph's answers to them, none where weights are made up.

    Raises BundleError for weights that do not fit the config, UnsupportedError for what the exporter does not know.
    """
    from edgekit.export import SCRATCH, Reference
    from edgekit.verify import read_arrays

    scratch = bench.work / SCRATCH
    ingest = registry.find("ingest", bundle.ingest).open(bench.work, bundle.settings)
    tokens = [np.asarray(one.ids, np.int64) for one in ingest.encode(items, truncate=True)]
    build = {"source": bench.source(), "scratch": str(scratch)}
    if bundle.source.random:
        return Reference([], tokens, 0, build, {})
    order = build | {
        "tokens": [ids.tolist() for ids in tokens],
        "head": bundle.head,
        "settings": bundle.settings,
        "answers": str(scratch / "reference.npz"),
    }
    made = bench.run("edgekit.building:work", "reference", order)
    answers = read_arrays(scratch / "reference.npz", ["reference"], len(items))["reference"]
    return Reference(answers, tokens, made["bytes"], build | {"built": {"fp32": made["states"]}}, {})


def work(payload: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's job: build the graph in float32, run it on the samples' tokens, keep what the head makes of them."""
    from edgekit.verify import write_arrays

    source = Source(**payload["source"] | {"folder": Path(payload["source"]["folder"])})
    exporter, head = registry.find("exporters", source.arch).EXPORTER, registry.find("heads", payload["head"])
    file = Path(payload["scratch"]) / "fp32.onnx"
    built = exporter.build(source, Recipe(), file, say)
    # Mapped and not packed: the float32 weights of a large model need not fit into memory.
    options = {"session.disable_prepacking": "1"}
    session = registry.find("targets", "cpu").open(
        file.parent, replace(built, states=()), Recipe(), threads=device.threads(), options=options
    )
    found: list[Array] = []
    say("computing the reference")
    try:
        for ids in payload["tokens"]:
            outputs, _ = session.run(feeds(built, ids, head.positions(len(ids))))
            found.append(head.numbers(outputs["logits"][0], payload["settings"]))
    finally:
        session.close()
    write_arrays(Path(payload["answers"]), {"reference": found})
    size = sum(path.stat().st_size for path in file.parent.glob("fp32.*"))
    return {"bytes": size, "states": msgspec.to_builtins(built.states)}


def feeds(graph: Graph, ids: Sequence[int], positions: Sequence[int]) -> dict[str, Array]:
    """One prompt, from an empty past: what the portable graph of a decoder takes."""
    given = {
        "input_ids": np.asarray([ids], np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "logit_positions": np.asarray([positions], np.int64),
    }
    sizes = {"batch": 1, "past": 0}
    for port in graph.inputs:
        if port.name not in given:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in port.shape]
            given[port.name] = np.zeros(shape, port.dtype)
    return given
