"""Built graphs against transformers: every architecture with its features on, on two engines, with padding and a cache.

The models are tiny and random, drawn wide enough that a mistake in any part moves the logits by far more than 1e-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np
import onnx
import pytest

from edgekit.core import Recipe
from edgekit.exporters._decoder.blueprint_from_config import read
from edgekit.quantize import blocks

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="the reference needs it")

EXACT = 2e-5  # float32; logits reach 5


def rope(**told: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10_000.0, **told}}


def ramp(count: int, first: float, last: float) -> list[float]:
    return [float(number) for number in np.linspace(first, last, count)]


LONG = {"short_factor": ramp(8, 1, 2), "long_factor": ramp(8, 2, 9), "original_max_position_embeddings": 24}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
PHI_LONG = {"short_factor": ramp(6, 1, 2), "long_factor": ramp(6, 2, 9), "partial_rotary_factor": 0.75}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    ("llama", {"num_key_value_heads": 4, "hidden_act": "gelu"}),
    ("llama", rope(rope_type="linear", factor=2.0)),
    ("llama", rope(rope_type="dynamic", factor=2.0)),
    ("llama", rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
     | {"original_max_position_embeddings": 16}),
    ("llama", rope(**YARN)),
    ("llama", rope(**YARN, mscale=0.7, mscale_all_dim=0.4, truncate=False, beta_fast=20.0, beta_slow=2.0)),
    ("llama", rope(rope_type="longrope", factor=2.0, **LONG)),
    ("mistral", {"sliding_window": 4}),
    ("mistral", {"sliding_window": None, "head_dim": 24}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 24, "attention_bias": True, "use_sliding_window": True, "sliding_window": 3,
               "layer_types": ["sliding_attention", "full_attention"]}),
    ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    ("phi3", {"sliding_window": 5}),
    ("phi3", rope(rope_type="longrope", **PHI_LONG)
     | {"original_max_position_embeddings": 64, "max_position_embeddings": 256}),
    ("olmo2", {"attention_bias": True}),
    ("olmo2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 0.5, "residual_multiplier": 0.22,
                 "attention_multiplier": 0.3, "attention_bias": True, "mlp_bias": True}),
    ("granite", {"tie_word_embeddings": True}),
    ("smollm3", {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 4}),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [0, 1, 1, 0], "tie_word_embeddings": False}),
    ("gemma3_text", {"head_dim": 24, "num_hidden_layers": 3, "sliding_window": 4, "sliding_window_pattern": 3,
                     "query_pre_attn_scalar": 20, "final_logit_softcapping": 3.0}),
    ("gemma3_text", {"head_dim": 16, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"],
                     "rope_parameters": GEMMA_ROPES, "attention_bias": True, "tie_word_embeddings": False}),
    ("gpt2", {"n_inner": 100}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False, "activation_function": "relu"}),
    ("gpt2", {"scale_attn_weights": False}),
    # More of those with states of a fixed size is in test_state_space.
    ("mamba", {}),
    ("falcon_mamba", {}),
    ("mamba2", {}),
    ("lfm2", {}),
    ("falcon_h1", {}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """transformers warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_every_architecture_is_among_the_cases() -> None:
    assert {arch for arch, _ in CASES} == set(tiny.architectures())


@pytest.mark.parametrize(("arch", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_prefill_and_decode_give_what_transformers_gives(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    source, model = tiny.trained(tmp_path, arch, **changes)
    graph = tiny.build(source, tmp_path)
    for name, engine in tiny.ENGINES.items():
        for step in tiny.generate(engine(tmp_path / graph.path), graph, tiny.prompts([9, 5]), steps=4):
            for row, logits in zip(step.rows, step.logits, strict=True):
                wanted = tiny.expected(model, row)[-1]
                assert np.ptp(wanted) > 1
                assert np.abs(logits - wanted).max() <= EXACT, (name, len(row))


@pytest.mark.parametrize(
    ("weights", "group"), [("int4", 32), ("int4", 16), ("int4", None), ("int8", 32), ("int8", None)]
)
@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("phi3", {}),
        ("gpt2", {"n_inner": 128, "tie_word_embeddings": True}),
    ],
)
def test_quantized_weights_are_those_of_the_blocks(
    tmp_path: Path, arch: str, changes: dict[str, Any], weights: str, group: int | None
) -> None:
    """Against transformers with the same dequantized weights in it: nothing is lost but what rounding loses."""
    source, model = tiny.trained(tmp_path, arch, **changes)
    graph = tiny.build(source, tmp_path, Recipe(weights=weights, group_size=group, method="rtn"))
    put_back(model, weights, group, tied=changes.get("tie_word_embeddings", False))
    for name, engine in tiny.ENGINES.items():
        for step in tiny.generate(engine(tmp_path / graph.path), graph, tiny.prompts([6, 3]), steps=1):
            for row, logits in zip(step.rows, step.logits, strict=True):
                assert np.abs(logits - tiny.expected(model, row)[-1]).max() <= EXACT, (name, len(row))


def put_back(model: Any, weights: str, group: int | None, *, tied: bool) -> None:
    """Each weight of the torch model through int4 or int8 and back."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() != 2 or "wpe" in name:
                continue
            looked_up = not tied and ("embed" in name or "wte" in name)
            bits = 8 if looked_up else blocks.BITS[weights]
            # GPT-2's linear layers lie the other way round.
            axis = 0 if "c_" in name else 1
            values, scale = blocks.quantize(parameter.numpy(), bits, group or parameter.shape[axis], axis)
            parameter.copy_(torch.from_numpy(blocks.dequantize(values, scale, axis)))


def test_names_in_a_recipe_are_heeded(tmp_path: Path) -> None:
    """What is skipped stays exact; what is overridden is nearer than the rest."""
    source, model = tiny.trained(tmp_path, "llama")
    row = tiny.prompts([8])
    everything = ("lm_head", "model.embed_tokens.weight", *(
        f"model.layers.{layer}.{part}_proj"
        for layer in range(2)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    ))  # fmt: skip
    found = {}
    for name, recipe in {
        "int4": Recipe("int4", group_size=32),
        "int8 head": Recipe("int4", group_size=32, overrides={"lm_head": "int8"}, skip=everything[1:]),
        "int4 head": Recipe("int4", group_size=32, skip=everything[1:]),
        "nothing": Recipe("int4", group_size=32, skip=everything),
    }.items():
        graph = tiny.build(source, tmp_path, recipe)
        step = next(tiny.generate(tiny.onnxruntime(tmp_path / graph.path), graph, row, steps=0))
        found[name] = np.abs(step.logits[0] - tiny.expected(model, row[0])[-1]).max()
    assert found["nothing"] <= EXACT
    assert EXACT < found["int8 head"] < found["int4 head"] / 4 < found["int4"]


def test_queries_keys_and_values_are_one_product_where_the_recipe_has_them_alike(tmp_path: Path) -> None:
    source, model = tiny.trained(tmp_path, "qwen2")  # with biases
    recipe = Recipe("int8", group_size=32, skip=("model.layers.0.self_attn.v_proj",))
    graph = tiny.build(source, tmp_path, recipe)
    names = [node.name for node in onnx.load(tmp_path / graph.path, load_external_data=False).graph.node]
    assert "layers.0.qkv" not in names
    assert {"layers.0.qkv.q", "layers.0.qkv.k", "layers.0.qkv.v", "layers.1.qkv", "layers.1.qkv.parts"} < {*names}
    row = tiny.prompts([8])
    step = next(tiny.generate(tiny.onnxruntime(tmp_path / graph.path), graph, row, steps=0))
    apart = np.abs(step.logits[0] - tiny.expected(model, row[0])[-1]).max()
    assert EXACT < apart < 0.1, "it is rounded, and no more than that"


def test_longrope_switches_for_each_row_by_itself(tmp_path: Path) -> None:
    source, model = tiny.trained(tmp_path, "llama", **rope(rope_type="longrope", factor=2.0, **LONG))
    graph = tiny.build(source, tmp_path)
    assert (
        tiny.exporter("llama").settings(replace(source, random=True), "text-generation", tmp_path)["context_length"]
        == 24
    )
    for name, engine in tiny.ENGINES.items():
        run = engine(tmp_path / graph.path)
        for lengths in ([24, 25], [40, 7]):
            for step in tiny.generate(run, graph, tiny.prompts(lengths), steps=0):
                for row, logits in zip(step.rows, step.logits, strict=True):
                    assert np.abs(logits - tiny.expected(model, row)[-1]).max() <= EXACT, (name, len(row))
        for step in tiny.generate(run, graph, tiny.prompts([30]), steps=3):  # long from the start
            assert np.abs(step.logits[0] - tiny.expected(model, step.rows[0])[-1]).max() <= EXACT


def test_logits_of_any_positions_in_any_order(tmp_path: Path) -> None:
    source, model = tiny.trained(tmp_path, "qwen3", head_dim=16)
    graph = tiny.build(source, tmp_path)
    row = tiny.prompts([9])[0]
    wanted = np.array([[8, 0, 3, 3]])
    empty = {port.name: np.zeros((1, 2, 0, 16), np.float32) for port in graph.inputs[4:]}
    feeds = {
        "input_ids": np.array([row]),
        "position_ids": np.arange(9)[None],
        "attention_mask": np.ones((1, 9), np.int64),
        "logit_positions": wanted,
        **empty,
    }
    for engine in tiny.ENGINES.values():
        found = engine(tmp_path / graph.path)(feeds)["logits"]
        assert found.shape == (1, 4, tiny.VOCABULARY)
        assert np.abs(found[0] - tiny.expected(model, row)[wanted[0]]).max() <= EXACT


def test_a_query_that_sees_nothing_gives_numbers(tmp_path: Path) -> None:
    """Padding beyond a window has no key to look at; what it gives goes into the cache, where a NaN would spread."""
    source, _ = tiny.trained(tmp_path, "mistral", sliding_window=2)
    graph = tiny.build(source, tmp_path)
    empty = {port.name: np.zeros((1, 2, 0, 16), np.float32) for port in graph.inputs[4:]}
    feeds = {
        "input_ids": np.array([[5, 6, 0, 0, 0, 0]]),
        "position_ids": np.arange(6)[None],
        "attention_mask": np.array([[1, 1, 0, 0, 0, 0]]),
        "logit_positions": np.array([[1, 5]]),
        **empty,
    }
    for engine in tiny.ENGINES.values():
        for name, value in engine(tmp_path / graph.path)(feeds).items():
            assert np.isfinite(value).all(), name


@pytest.mark.parametrize("arch", tiny.architectures())
def test_defaults_are_those_of_transformers(tmp_path: Path, arch: str) -> None:
    """A config.json that says sizes only means to us what it means to transformers."""
    from transformers import AutoConfig

    decoder = tiny.exporter(arch)
    known = AutoConfig.for_model(arch)
    # Mamba 2's heads fill 4096 channels where nothing is said of them.
    told = tiny.SIZES | {"hidden_size": 4096 if arch == "mamba2" else 128, "num_attention_heads": 32}
    own = {decoder.words.get(key, key): size for key, size in told.items() if hasattr(known, key)}
    sizes = {key: size for key, size in own.items() if key not in decoder.defaults}
    full = AutoConfig.for_model(arch, **sizes).to_dict()
    ours = read(decoder, tiny.as_source(tmp_path, {"model_type": arch, **sizes}))
    theirs = read(decoder, tiny.as_source(tmp_path, full))
    assert vars(ours) | {"ropes": ()} == vars(theirs) | {"ropes": ()}
    assert ours.ropes.keys() == theirs.ropes.keys()
    for name in ours.ropes:
        assert np.array_equal(ours.ropes[name].frequencies, theirs.ropes[name].frequencies)
    for key, value in decoder.defaults.items():
        assert getattr(type(known), key, value) == value, key
