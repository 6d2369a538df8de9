"""Real bundles that need no export: a lookup table as the graph, a token per byte, right answers by construction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import bundle as bundles
from edgekit import tasks
from edgekit.core import Bundle, Goldens, Graph, Port, Recipe, Source, Variant
from edgekit.model import load
from edgekit.standin import stand_in_tokenizer
from edgekit.verify import write_arrays

VOCABULARY = 261
MASK = 4
TEXTS = ("a", "bb", "hello")
SETTINGS: dict[str, dict[str, Any]] = {
    "feature-extraction": {"pooling": "mean", "normalize": True, "prompts": {"query": "query: "}},
    "text-classification": {"labels": ["no", "yes", "perhaps"]},
    "text-ranking": {"labels": ["fit"]},
    "token-classification": {"labels": ["O", "B-LOC"]},
    "fill-mask": {"mask_id": MASK, "mask_token": "[MASK]"},
}
WIDTH = {"feature-extraction": 6, "text-classification": 3, "text-ranking": 1, "token-classification": 2}


def make(folder: Path, task: str = "feature-extraction", *, random: bool = False, goldens: bool = False) -> Path:
    """A bundle for `task` in a new folder. Its graph looks up a row of a fixed table for each token."""
    found = tasks.find(task)
    width = WIDTH.get(task, VOCABULARY)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(stand_in_tokenizer(VOCABULARY)), encoding="utf-8")
    rank = 2 if found.head == "classes" else 3
    _write_graph(folder / "model.onnx", width, pooled=rank == 2)
    shape = (("batch", width), ("batch", "sequence", width))[rank - 2]
    ports = (Port("input_ids", "int64", ("batch", "sequence")),), (Port("out", "float32", shape),)
    made = Bundle(
        folder,
        Source("zoo:small", "bert", folder, "", {"model_type": "bert"}, random),
        found.name,
        found.ingest,
        found.loop,
        found.head,
        {"inputs": ["input_ids"], "output": "out", "max_length": 64, **SETTINGS[task]},
        (Variant("cpu", Recipe(), (Graph("model", "model.onnx", *ports),), {}, {"bytes": 6000, "agreement": 1.0}),),
    )
    bundles.write(made, folder, {})
    if goldens:
        _add_goldens(made)
    return folder


def spoil(folder: Path) -> None:
    """Make the known answers differ from what the graph gives, with a manifest that is right about it."""
    with np.load(folder / "goldens.npz") as arrays:
        np.savez(folder / "goldens.npz", **{key: a if a.dtype == np.int64 else a + 1 for key, a in arrays.items()})
    manifest = bundles.read(folder, verify="never")
    bundles.write(manifest, folder, {})


def _write_graph(file: Path, width: int, *, pooled: bool) -> None:
    import onnx
    from onnx import TensorProto, helper

    rows = np.random.default_rng(0).standard_normal((VOCABULARY, width), np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows" if pooled else "out"])]
    if pooled:
        nodes.append(helper.make_node("ReduceMean", ["rows", "axes"], ["out"], keepdims=0))
    tensors = [helper.make_tensor("table", TensorProto.FLOAT, rows.shape, rows.ravel())]
    tensors += [helper.make_tensor("axes", TensorProto.INT64, [1], [1])] * pooled
    shape = ["batch", width] if pooled else ["batch", "sequence", width]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        tensors,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, file)


def _add_goldens(made: Bundle) -> None:
    with load(made.folder, target="cpu") as model:
        numbers, tokens = model.numbers(TEXTS), model.tokens(TEXTS)
    name = made.variants[0].name
    write_arrays(made.folder / "goldens.npz", {"tokens": tokens, "reference": numbers, name: numbers})
    goldens = Goldens(TEXTS, "goldens.npz", {name: 1e-5}, {name: 1e-5})
    bundles.write(replace(made, goldens=goldens), made.folder, {})
