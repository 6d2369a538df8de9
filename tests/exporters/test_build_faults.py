"""What the builder refuses: configs that make no sense, weights that do not fit them, and recipes that fit neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np
import pytest

from edgekit.core import Recipe, Source
from edgekit.errors import BundleError, EdgeKitError, UnsupportedError, VerificationError
from edgekit.exporters._decoder.blueprint_from_config import DEEPEST, read


def refused(source: Source, error: type[EdgeKitError], why: str, recipe: Recipe | None = None) -> EdgeKitError:
    """Building fails with that error, which says what to do, and leaves no file behind."""
    for name in ("model.onnx", "model.bin"):
        (source.folder / name).write_bytes(b"of before")
    with pytest.raises(error, match=why) as caught:
        tiny.build(source, source.folder, recipe)
    assert caught.value.hint
    kept = {(source.folder / name).exists() for name in ("model.onnx", "model.bin")}
    assert len(kept) == 1, "a graph without its weights, or the other way round"
    return caught.value


def llama(folder: Path, **changes: Any) -> tuple[Source, dict[str, Any]]:
    """A good model whose tensors can be spoiled; saved by `spoiled`."""
    source = tiny.folder_of(folder, tiny.config_of("llama", **changes))
    return source, tiny.tensors(source)


def spoiled(source: Source, arrays: dict[str, Any]) -> Source:
    tiny.save(source.folder / "model.safetensors", arrays)
    return source


# Weights


def test_another_vocabulary(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"][:-1]
    error = refused(spoiled(source, arrays), BundleError, r"embed_tokens.weight' has shape \[319, 64\].* \[320, 64\]")
    assert error.exit_code == 6
    assert "different models" in error.hint


def test_a_missing_tensor(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    arrays.pop("model.layers.1.mlp.up_proj.weight")
    error = refused(spoiled(source, arrays), BundleError, r"no 'model.layers.1.mlp.up_proj.weight'")
    assert "config.json of another model" in error.hint
    assert error.exit_code == 6


def test_weights_of_something_else(tmp_path: Path) -> None:
    source, _ = llama(tmp_path)
    error = refused(spoiled(source, {"x": np.ones((2, 2), np.float32)}), BundleError, "no 'model.embed_tokens.weight'")
    assert error.hint == "download the model again"


def test_a_tensor_that_would_be_left_out(tmp_path: Path) -> None:
    """Biases that the config does not tell of: without them every answer would be wrong."""
    source, arrays = llama(tmp_path)
    arrays["model.layers.0.self_attn.q_proj.bias"] = np.ones(64, np.float32)
    error = refused(spoiled(source, arrays), UnsupportedError, "q_proj.bias', which config.json does not use")
    assert error.exit_code == 4


def test_a_dtype_that_nobody_reads(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    arrays["model.norm.weight"] = arrays["model.norm.weight"].astype(np.float64)
    assert refused(spoiled(source, arrays), UnsupportedError, "'model.norm.weight' is stored as F64").exit_code == 4


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe("int4", group_size=32)], ids=lambda recipe: recipe.name)
def test_numbers_that_are_none(tmp_path: Path, name: str, value: float, recipe: Recipe) -> None:
    source, arrays = llama(tmp_path)
    arrays[name] = arrays[name].copy()
    arrays[name].flat[7] = value
    error = refused(spoiled(source, arrays), VerificationError, f"weight '{name}' holds a NaN or an infinity", recipe)
    assert error.exit_code == 5
    assert not (tmp_path / "model.bin").exists()


def test_a_nan_in_bfloat16(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    halves["lm_head.weight"].flat[-1] = 0x7FC0
    refused(spoiled(source, halves), VerificationError, "'lm_head.weight' holds a NaN")


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    spoiled(source, arrays)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert refused(source, BundleError, "places .* beyond the end").exit_code == 6


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    source, arrays = llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tiny.save(tmp_path / "a.safetensors", arrays)
    index = {"weight_map": dict.fromkeys(arrays, "a.safetensors") | {"lm_head.weight": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(source, BundleError, "names 'b.safetensors', which is not in the same folder").exit_code == 6


# Recipes


@pytest.mark.parametrize("group", [48, 3])
def test_a_group_that_does_not_divide(tmp_path: Path, group: int) -> None:
    source, _ = llama(tmp_path)
    recipe = Recipe("int4", group_size=group)
    error = refused(source, UnsupportedError, f"has 64 inputs, which cannot be quantized in groups of {group}", recipe)
    assert "--group-size" in error.hint
    assert not (tmp_path / "model.bin").exists()


# Configs


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"hidden_size": None}, BundleError, "config.json has no 'hidden_size'"),
        ({"hidden_size": "64"}, BundleError, "hidden_size is '64', not a whole number"),
        ({"hidden_size": True}, BundleError, "hidden_size is True"),
        ({"vocab_size": 2**31}, BundleError, "vocab_size is 2147483648"),
        ({"num_hidden_layers": 10**9}, BundleError, f"num_hidden_layers is 1000000000, not .* to {DEEPEST}"),
        ({"num_hidden_layers": 0}, BundleError, "num_hidden_layers is 0"),
        ({"num_key_value_heads": 3}, BundleError, "3 key heads do not serve 4 attention heads"),
        ({"num_attention_heads": 128, "num_key_value_heads": 128}, BundleError, "128 key heads do not serve"),
        ({"rms_norm_eps": "small"}, BundleError, "rms_norm_eps is 'small', not a number"),
        ({"rms_norm_eps": float("inf")}, BundleError, "rms_norm_eps is inf, not a number"),
        ({"attention_bias": "no"}, BundleError, "attention_bias is 'no', not true or false"),
        ({"hidden_act": 3}, BundleError, "hidden_act is 3, not a text"),
        ({"hidden_act": "quick_gelu"}, UnsupportedError, "activation 'quick_gelu' is not known"),
        ({"hidden_act": "x" * 500}, UnsupportedError, "activation 'x+ is not known"),
        ({"rope_scaling": {"rope_type": "spiral"}}, UnsupportedError, "'spiral' is not known"),
    ],
)
def test_a_config_that_makes_no_sense(tmp_path: Path, changes: dict[str, Any], error: Any, why: str) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of("llama", **changes), random=True)
    assert len(refused(source, error, why).message) < 200


@pytest.mark.parametrize(
    ("arch", "changes", "error", "why"),
    [
        (
            "qwen3",
            {"use_sliding_window": True, "layer_types": ["linear_attention"] * 2},
            UnsupportedError,
            "'linear_att",
        ),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["full_attention"]}, BundleError, "a list of 2"),
        ("qwen3", {"use_sliding_window": True, "layer_types": [1, 2]}, BundleError, "a list of 2"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": "all"}, BundleError, "max_window_layers is 'all'"),
        ("mistral", {"sliding_window": 0}, BundleError, "sliding_window is 0"),
        ("smollm3", {"no_rope_layers": [1]}, BundleError, r"no_rope_layers is \[1\], not a list of 2"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, UnsupportedError, "sets attn_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, UnsupportedError, "sets use_bidirectional_attention"),
        ("gemma3_text", {"rope_parameters": [1]}, BundleError, r"rope_parameters is \[1\], not an object"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 1}}, BundleError, "full_attention is 1, not an"),
        ("gpt2", {"add_cross_attention": True}, UnsupportedError, "sets add_cross_attention"),
        ("gpt2", {"n_embd": []}, BundleError, r"n_embd is \[\]"),
    ],
)
def test_a_config_of_its_kind_that_makes_no_sense(
    tmp_path: Path, arch: str, changes: dict[str, Any], error: Any, why: str
) -> None:
    refused(tiny.as_source(tmp_path, tiny.config_of(arch, **changes), random=True), error, why)


def test_a_model_that_generates_nothing(tmp_path: Path) -> None:
    config = tiny.config_of("llama", architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UnsupportedError, match="LlamaForSequenceClassification does not generate text") as caught:
        tiny.exporter("llama").task(tiny.as_source(tmp_path, config))
    assert caught.value.hint


@pytest.mark.parametrize("value", ["</s>", [1, None], True, 1.0])
def test_a_token_that_is_no_number(tmp_path: Path, value: Any) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of("llama", eos_token_id=value), random=True)
    with pytest.raises(BundleError, match=r"eos_token_id is .*, not a token's number"):
        tiny.exporter("llama").settings(source, "text-generation", tmp_path)


def test_a_deep_model_is_read_in_no_time(tmp_path: Path) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of("llama", num_hidden_layers=DEEPEST))
    assert len(read(tiny.exporter("llama"), source).layers) == DEEPEST
