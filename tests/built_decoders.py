"""Tiny language models for the builder's tests: folders that transformers wrote, and folders of made-up weights.

`generate` feeds a graph as a session would (padding on the right, holes where it was) and gives what came out for
each row; `expected` asks transformers for the same, row by row, without padding and without a cache.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import registry
from edgekit.core import Graph, Recipe, Source
from edgekit.exporters._reading import read
from edgekit.exporters._tensors import MadeUp

VOCABULARY = 320
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What an architecture must be told besides, to be small.
OWN: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 8, "chunk_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 32},
    "falcon_h1": {
        "mamba_d_ssm": 96,
        "mamba_n_heads": 6,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
}
DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64"}


def quiet(stage: str) -> None:
    """Nobody listens."""


def exporter(arch: str) -> Any:
    return registry.find("exporters", arch).EXPORTER


def architectures() -> list[str]:
    """Those that are built, not traced."""
    return [name for name in registry.names("exporters") if "text-generation" in exporter(name).tasks]


def caching() -> list[str]:
    """Those that hold nothing but keys and values."""
    return [arch for arch in architectures() if not any(read(exporter(arch), _source(arch)).recurrent())]


def _source(arch: str) -> Source:
    return as_source(Path(), config_of(arch))


def config_of(arch: str, **changes: Any) -> dict[str, Any]:
    """A config.json with small sizes, in transformers' common words."""
    return {"model_type": arch, **SIZES, **OWN.get(arch, {}), **changes}


def as_source(folder: Path, config: Mapping[str, Any], *, random: bool = False) -> Source:
    return Source("tiny", str(config["model_type"]), folder, "", dict(config), random)


def build(source: Source, folder: Path, recipe: Recipe | None = None) -> Graph:
    found: Graph = exporter(source.arch).build(source, recipe or Recipe(), folder / "model.onnx", quiet)
    return found


def tensors(source: Source) -> dict[str, Any]:
    """Made-up weights for every tensor that the config asks for, float32."""
    told = exporter(source.arch)
    plan = read(told, source)
    fill = {name: 0.5 for name, shape in plan.shapes().items() if len(shape) == 1}
    made = MadeUp(plan.shapes(), fill, 0.1)
    return {name: made.rows(name, 0, shape[0]) for name, shape in plan.shapes().items()}


def save(file: Path, arrays: Mapping[str, Any]) -> None:
    """A safetensors file; uint16 arrays are taken for bfloat16."""
    header, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    told = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(told)) + told + data)


def folder_of(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> Source:
    """A Hugging Face folder: config.json, and made-up weights unless others are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    source = as_source(folder, config)
    save(folder / "model.safetensors", tensors(source) if arrays is None else arrays)
    return source


def trained(folder: Path, arch: str, *, embedding: float = 0.15, **changes: Any) -> tuple[Source, Any]:
    """A folder that transformers wrote, and its model; every weight is drawn anew, so that none is 0 or 1.

    `embedding`: how far the table's numbers spread. A table that is the head as well, and large beside what the layers
    add, makes a model that repeats its last token.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(arch)
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
    torch.manual_seed(0)
    config = AutoConfig.for_model(arch, **{**sizes, **OWN.get(arch, {}), **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, embedding if parameter is table else 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.tie_weights()
    model.save_pretrained(folder)
    return as_source(folder, json.loads((folder / "config.json").read_text())), model


Run = Callable[[dict[str, Any]], dict[str, Any]]


def onnxruntime(file: Path, options: Any = None) -> Run:
    """The graph in ONNX Runtime, with activations as float where it would take int8 by itself."""
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(file), options)
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def openvino(file: Path) -> Run:
    """The graph in OpenVINO, in float32 throughout."""
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "INFERENCE_NUM_THREADS": "1"}
    core = openvino.Core()
    model = core.compile_model(core.read_model(str(file)), "CPU", exact)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        found = model(feeds)
        return {output.get_any_name(): found[output].copy() for output in model.outputs}

    return run


ENGINES: dict[str, Callable[[Path], Run]] = {"onnxruntime": onnxruntime, "openvino": openvino}


@dataclass(frozen=True)
class Step:
    """What one call gave: the tokens of each row so far, and each row's logits behind the last of them."""

    rows: list[list[int]]
    logits: Any  # (batch, vocabulary)
    outputs: dict[str, Any]


def prompts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, VOCABULARY, length).tolist() for length in lengths]


def nothing_yet(graph: Graph, batch: int) -> dict[str, Any]:
    """The states that a text begins with."""
    ports = {port.name: port for port in graph.inputs}
    sizes = {"batch": batch, "past": 0}
    shapes = {state.into: ports[state.into].shape for state in graph.states}
    return {
        name: np.zeros([axis if isinstance(axis, int) else sizes[axis] for axis in shape], np.float32)
        for name, shape in shapes.items()
    }


def generate(run: Run, graph: Graph, rows: list[list[int]], steps: int) -> Iterator[Step]:
    """The prompts at once, then `steps` times a token for each row."""
    rows, lengths = [list(row) for row in rows], [len(row) for row in rows]
    batch, longest = len(rows), max(lengths)
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * length + [0] * (longest - length) for length in lengths], np.int64)
    counts, places = np.array(lengths), np.minimum(np.arange(longest), np.array(lengths)[:, None] - 1)
    states = nothing_yet(graph, batch)
    for step in range(steps + 1):
        known = {"input_ids": ids, "counts": counts, "position_ids": places, "attention_mask": mask, **states}
        known["logit_positions"] = counts[:, None] - 1
        outputs = run({port.name: known[port.name] for port in graph.inputs})
        yield Step([list(row) for row in rows], outputs["logits"][:, 0], outputs)
        states = {state.into: outputs[state.out] for state in graph.states}
        ids = np.array([[7 + 31 * step + 5 * row] for row in range(batch)], np.int64)
        counts, places = np.ones(batch, np.int64), np.array([[len(row)] for row in rows], np.int64)
        mask = np.concatenate([mask, np.ones((batch, 1), np.int64)], axis=1)
        for row, new in zip(rows, ids[:, 0].tolist(), strict=True):
            row.append(new)


def expected(model: Any, row: list[int]) -> Any:
    """transformers' logits of every position of one row, (length, vocabulary)."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([row]), use_cache=False).logits[0].numpy()
