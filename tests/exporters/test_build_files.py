"""What the builder reads and writes: all forms of safetensors, made-up weights, external data, settings, memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from edgekit.core import Graph, Recipe, Source
from edgekit.exporters._decoder.blueprint_from_config import read
from edgekit.exporters._decoder.rope import LONGEST
from edgekit.exporters._decoder.tensors import MadeUp

INT4 = Recipe("int4", group_size=32, method="rtn")


def logits(folder: Path, graph: Graph) -> Any:
    run = tiny.onnxruntime(folder / graph.path)
    return [step.logits for step in tiny.generate(run, graph, tiny.prompts([6, 4]), steps=2)]


@pytest.mark.parametrize("arch", tiny.architectures())
@pytest.mark.parametrize("recipe", [Recipe(), INT4], ids=lambda recipe: recipe.name)
def test_the_graph_is_what_the_contract_says(tmp_path: Path, arch: str, recipe: Recipe) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of(arch, head_dim=16, sliding_window=4), random=True)
    graph = tiny.build(source, tmp_path, recipe)
    model = onnx.load(tmp_path / graph.path, load_external_data=False)
    onnx.checker.check_model(str(tmp_path / graph.path))
    plan = read(tiny.exporter(arch), source)
    first = [
        "input_ids",
        *(["counts"] if any(plan.recurrent()) else []),
        *(["position_ids", "attention_mask"] if plan.attending else []),
        "logit_positions",
    ]
    assert [port.name for port in graph.inputs[: len(first)]] == first
    assert [value.name for value in model.graph.input] == [port.name for port in graph.inputs]
    assert [value.name for value in model.graph.output] == [port.name for port in graph.outputs]
    assert [state.into for state in graph.states] == [port.name for port in graph.inputs[len(first) :]]
    assert [state.out for state in graph.states] == [port.name for port in graph.outputs[1:]]
    assert graph.outputs[0].shape == ("batch", "outputs", tiny.VOCABULARY)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 23)]
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node)
    for layer in plan.attending:
        assert nodes[f"layers.{layer}.attention"].op_type == "Attention"
        for what in ("key", "value"):
            assert nodes[f"layers.{layer}.{what}_cache"].op_type == "Concat"
        if arch != "gpt2" and (arch, layer) != ("smollm3", 3):
            assert nodes[f"layers.{layer}.q_rotary"].op_type == "RotaryEmbedding"
    assert nodes["lm_head"].op_type == "MatMul"
    assert "embed" in nodes
    windows = {
        name: entry.value
        for name, node in nodes.items()
        for entry in node.metadata_props
        if entry.key == "sliding_window"
    }
    if arch in ("mistral", "phi3", "gemma3_text"):
        assert windows == {"layers.0.attention": "4", "layers.1.attention": "4"}


def test_tensors_lie_on_pages_and_nothing_overlaps(tmp_path: Path) -> None:
    graph = tiny.build(tiny.as_source(tmp_path, tiny.config_of("llama"), random=True), tmp_path, INT4)
    model = onnx.load(tmp_path / graph.path, load_external_data=False)
    places = []
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            info = external_data_helper.ExternalDataInfo(tensor)
            assert info.location == "model.bin"
            assert info.offset is not None
            assert info.length is not None
            assert info.offset % 4096 == 0
            places.append((info.offset, info.length))
        else:
            assert len(tensor.raw_data) <= 256
    places.sort()
    assert all(begin + size <= other for (begin, size), (other, _) in itertools.pairwise(places))
    assert sum(places[-1]) == (tmp_path / "model.bin").stat().st_size


@pytest.mark.parametrize("weights", ["int4", "int8", "fp32"])
def test_a_tied_table_is_there_once(tmp_path: Path, weights: str) -> None:
    recipe = Recipe(weights, group_size=32 if weights != "fp32" else None)
    sizes = {}
    for tied in (True, False):
        folder = tmp_path / str(tied)
        folder.mkdir()
        config = tiny.config_of("llama", tie_word_embeddings=tied, vocab_size=4096, num_hidden_layers=1)
        tiny.build(tiny.as_source(folder, config, random=True), folder, recipe)
        sizes[tied] = (folder / "model.bin").stat().st_size
    table = 4096 * 64 * {"int4": 4.5 + 0.5, "int8": 9, "fp32": 32}[weights] / 8
    # Of its own, an int4 model's table is int8.
    assert sizes[False] - sizes[True] == pytest.approx(table + (4096 * 64 / 2 if weights == "int4" else 0), rel=0.02)


@pytest.mark.parametrize("arch", tiny.architectures())
def test_made_up_weights_are_the_same_every_time(tmp_path: Path, arch: str) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of(arch), random=True)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tiny.build(source, tmp_path / name, INT4)
        contents.append([(tmp_path / name / file).read_bytes() for file in ("model.onnx", "model.bin")])
    assert contents[0] == contents[1]


def test_made_up_weights_are_normal_and_their_own() -> None:
    made = MadeUp({"a": (1000, 101), "b": (1000, 101), "norm": (7,)}, {"norm": 1.0}, 0.02)
    whole = made.rows("a", 0, 1000)
    assert whole.dtype == np.float32
    assert whole.mean() == pytest.approx(0, abs=3e-4)
    assert whole.std() == pytest.approx(0.02, rel=0.01)
    assert np.abs(np.corrcoef(whole[:, :-1].ravel(), whole[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(whole[0])) == 101
    assert np.array_equal(made.rows("a", 313, 500), whole[313:500])
    assert not np.array_equal(made.rows("b", 0, 1000), whole)
    assert made.rows("norm", 2, 5).tolist() == [1, 1, 1]


@pytest.mark.parametrize("arch", ["llama", "gemma3_text"])
def test_made_up_norms_do_nothing(tmp_path: Path, arch: str) -> None:
    """1 in the graph, also where files hold a norm's weight less 1."""
    graph = tiny.build(tiny.as_source(tmp_path, tiny.config_of(arch), random=True), tmp_path)
    model = onnx.load(tmp_path / graph.path)
    norm = next(tensor for tensor in model.graph.initializer if tensor.name == "model.norm.weight")
    assert (onnx.numpy_helper.to_array(norm) == 1).all()


# Forms of the same weights


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Source, dict[str, Any], Any]:
    source = tiny.folder_of(tmp_path / "whole", tiny.config_of("llama"))
    graph = tiny.build(source, tmp_path / "whole")
    return source, tiny.tensors(source), logits(tmp_path / "whole", graph)


def same(folder: Path, source: Source, wanted: Any, within: float = 0.0) -> None:
    moved = Source(source.id, source.arch, folder, "", source.config)
    for found, each in zip(logits(folder, tiny.build(moved, folder)), wanted, strict=True):
        assert np.abs(found - each).max() <= within


def test_shards(tmp_path: Path, whole: Any) -> None:
    source, arrays, wanted = whole
    names = sorted(arrays)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in shards.items():
        tiny.save(tmp_path / file, {name: arrays[name] for name in chosen})
    index = {"weight_map": {name: file for file, chosen in shards.items() for name in chosen}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    same(tmp_path, source, wanted)


@pytest.mark.parametrize(("dtype", "within"), [("F16", 2e-2), ("BF16", 2e-1)])
def test_half_precision(tmp_path: Path, whole: Any, dtype: str, within: float) -> None:
    """The graph computes in float32 with what the file holds: exact against the same numbers as float32."""
    source, arrays, wanted = whole
    halves = {name: array.astype(np.float16) if dtype == "F16" else bfloat16(array) for name, array in arrays.items()}
    floats = {
        name: half.astype(np.float32) if dtype == "F16" else (half.astype(np.uint32) << 16).view(np.float32)
        for name, half in halves.items()
    }
    (tmp_path / "halves").mkdir()
    tiny.save(tmp_path / "halves" / "model.safetensors", halves)
    exact = tiny.folder_of(tmp_path / "floats", source.config, floats)
    same(tmp_path / "halves", source, wanted, within)
    same(tmp_path / "halves", source, logits(tmp_path / "floats", tiny.build(exact, tmp_path / "floats")))


def bfloat16(array: Any) -> Any:
    """Cut, not rounded: the point is to read it back."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "base_model.model.", "_orig_mod.module."])
def test_names_behind_what_another_tool_put_there(tmp_path: Path, wrapper: str) -> None:
    source = tiny.folder_of(tmp_path / "plain", tiny.config_of("qwen3"))
    wrapped = {wrapper + name: array for name, array in tiny.tensors(source).items()}
    other = tiny.folder_of(tmp_path / "wrapped", source.config, wrapped)
    tiny.build(source, tmp_path / "plain")
    tiny.build(other, tmp_path / "wrapped")
    assert (tmp_path / "plain" / "model.bin").read_bytes() == (tmp_path / "wrapped" / "model.bin").read_bytes()


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_names_of_the_bare_model_and_old_buffers(tmp_path: Path, arch: str) -> None:
    """GPT-2's own checkpoint has no `transformer.`, and a mask in every layer."""
    source = tiny.folder_of(tmp_path / "whole", tiny.config_of(arch, tie_word_embeddings=True))
    wanted = logits(tmp_path / "whole", tiny.build(source, tmp_path / "whole"))
    told = tiny.exporter(arch)
    bare = {name.removeprefix(told.prefix): array for name, array in tiny.tensors(source).items()}
    bare.pop("lm_head.weight")
    buffer = {"gpt2": "h.0.attn.bias", "qwen3": "layers.0.self_attn.rotary_emb.inv_freq"}[arch]
    bare[buffer] = np.ones((1, 1, 4, 4), np.float32)
    # The table that the whole folder was tied to differs from its head, so it was not tied.
    whole = tiny.tensors(source)
    assert not np.array_equal(whole["lm_head.weight"], whole[f"{told.prefix}{told.embed}.weight"])
    (tmp_path / "bare").mkdir()
    tiny.save(tmp_path / "bare" / "model.safetensors", bare)
    moved = Source(source.id, source.arch, tmp_path / "bare", "", source.config)
    tied = logits(tmp_path / "bare", tiny.build(moved, tmp_path / "bare"))
    assert np.abs(tied[0] - wanted[0]).max() > 0.1
    whole["lm_head.weight"] = whole[f"{told.prefix}{told.embed}.weight"]
    both = tiny.folder_of(tmp_path / "both", source.config, whole)
    assert np.array_equal(logits(tmp_path / "both", tiny.build(both, tmp_path / "both")), tied)
    assert (tmp_path / "both" / "model.bin").stat().st_size == (tmp_path / "bare" / "model.bin").stat().st_size


# What the device is told


def test_settings_come_from_both_configs(tmp_path: Path) -> None:
    config = tiny.config_of("mistral", sliding_window=None, eos_token_id=2, pad_token_id=None)
    source = tiny.as_source(tmp_path, config, random=True)
    told = tiny.exporter("mistral")
    assert told.task(source) == "text-generation"
    found = told.settings(source, "text-generation", tmp_path)
    wanted = {
        "context_length": 128,
        "vocab_size": 320,
        "eos_ids": [2],
        "bos_id": 1,
        "pad_id": None,
        "layers": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "windows": [None, None],
        "generation": {},
    }
    assert {key: found[key] for key in wanted} == wanted
    generation = {"eos_token_id": [5, 6], "pad_token_id": 9, "bos_token_id": None, "temperature": 0.6, "seed": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    found = told.settings(source, "text-generation", tmp_path)
    assert (found["eos_ids"], found["bos_id"], found["pad_id"]) == ([5, 6], 1, 9)
    assert found["generation"] == {"temperature": 0.6}


def test_windows_of_each_layer_are_told(tmp_path: Path) -> None:
    config = tiny.config_of("gemma3_text", num_hidden_layers=7, sliding_window=4, head_dim=16)
    told = tiny.exporter("gemma3_text").settings(
        tiny.as_source(tmp_path, config, random=True), "text-generation", tmp_path
    )
    assert told["windows"] == [4, 4, 4, 4, 4, None, 4]


def test_positions_have_an_end(tmp_path: Path) -> None:
    config = tiny.config_of("llama", max_position_embeddings=10_000_000)
    assert read(tiny.exporter("llama"), tiny.as_source(tmp_path, config)).context == LONGEST


def test_gemma_configs_of_before_say_the_same(tmp_path: Path) -> None:
    """`rope_scaling` was for the layers without a window only."""
    old = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
    }
    told = tiny.exporter("gemma3_text")
    one, other = (read(told, tiny.as_source(tmp_path, tiny.config_of("gemma3_text", **each))) for each in (old, new))
    assert set(one.ropes) == {"full_attention", "sliding_attention"}
    for name, rope in one.ropes.items():
        assert np.array_equal(rope.frequencies, other.ropes[name].frequencies)


def test_phi_configs_of_before_call_longrope_su(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    found = [
        read(
            tiny.exporter("phi3"),
            tiny.as_source(tmp_path, tiny.config_of("phi3", rope_scaling={"type": kind, **factors})),
        ).ropes["rotary"]
        for kind in ("su", "yarn", "longrope")
    ]
    assert all(rope.long is not None and rope.switch == 4096 for rope in found)


# What it costs


def measured(code: str) -> dict[str, Any]:
    """What `code`, which prints one JSON object, says in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    source = tiny.folder_of(tmp_path, tiny.config_of("qwen3"))
    found = measured(f"""
import json, sys
from pathlib import Path
from edgekit import registry
from edgekit.core import Recipe, Source
source = Source("", "qwen3", Path({str(tmp_path)!r}), "", {source.config!r})
registry.find("exporters", "qwen3").EXPORTER.build(source, Recipe(), source.folder / "model.onnx", lambda stage: None)
print(json.dumps({{"modules": sorted(sys.modules)}}))
""")
    assert not {"torch", "transformers", "safetensors", "optimum"} & set(found["modules"])


@pytest.mark.slow
def test_memory_is_that_of_a_tensor_not_of_a_model(tmp_path: Path) -> None:
    """512 MB of weights, 128 MB the largest: less than twice that is allocated at any time, by Python's own count."""
    changes = {"vocab_size": 32768, "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 8}
    config = tiny.config_of("llama", tie_word_embeddings=True, **changes)
    for weights, group, most in (("fp32", None, 2 * 128), ("int4", 32, 128)):
        found = measured(f"""
import json, tracemalloc
import onnx_ir
from pathlib import Path
from edgekit import registry
from edgekit.core import Recipe, Source
tracemalloc.start(1)  # numpy counts its arrays there
source = Source("", "llama", Path({str(tmp_path)!r}), "", {config!r}, random=True)
registry.find("exporters", "llama").EXPORTER.build(
    source, Recipe({weights!r}, group_size={group}), source.folder / "model.onnx", lambda stage: None)
peak = tracemalloc.get_traced_memory()[1] / 2**20
print(json.dumps({{"peak": peak, "bytes": (source.folder / "model.bin").stat().st_size}}))
""")
        assert found["bytes"] > {"fp32": 5e8, "int4": 7e7}[weights]
        assert found["peak"] < most


def test_progress_is_told_by_layer(tmp_path: Path) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of("llama"), random=True)
    said: list[str] = []
    tiny.exporter("llama").build(source, Recipe(), tmp_path / "model.onnx", said.append)
    assert said == ["embedding table", "layer 1 of 2", "layer 2 of 2", "output head"]
