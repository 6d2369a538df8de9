"""A llama, qwen3 or mamba checkpoint of Hugging Face as a float16 GGUF file with a tokenizer that only counts.

llama.cpp's own converter is not in any package. Knows the tensors' names by the tables of the package `gguf`
(https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py) and what else a file must say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Convert = Callable[[str, Any], Any]  # a tensor of Hugging Face's name -> as llama.cpp wants it

KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3, "mamba": gguf.MODEL_ARCH.MAMBA}
CONTEXT = 1 << 20  # of a model that has no limit, as llama.cpp's converter says it


def write(model: Path, file: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kind = KINDS[config["model_type"]]
    out = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[kind])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_vocab_size(config["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _vocabulary(out, config["vocab_size"])
    convert = _recurrence(out, config) if kind == gguf.MODEL_ARCH.MAMBA else _attention(out, config, kind)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, tensor in _tensors(model):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        tensor = convert(name, tensor)
        small = tensor.ndim == 1 or known.endswith("ssm_a") or "conv1d" in known
        out.add_tensor(known, tensor.astype(np.float32 if small else np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _attention(out: gguf.GGUFWriter, config: dict[str, Any], kind: int) -> Convert:
    """What the file says of a llama or a qwen3, and how its tensors lie."""
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    out.add_context_length(config["max_position_embeddings"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(config["num_key_value_heads"])
    width = config.get("head_dim") or config["hidden_size"] // heads
    out.add_key_length(width)
    out.add_value_length(width)
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_dimension_count(width)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if rope.get("rope_type") == "llama3":
        out.add_tensor("rope_freqs.weight", _llama3(rope, width))

    def convert(name: str, tensor: Any) -> Any:
        turned = kind == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight"))
        return _interleaved(tensor, width) if turned else tensor

    return convert


def _recurrence(out: gguf.GGUFWriter, config: dict[str, Any]) -> Convert:
    """The same of a mamba: the decay is kept as -exp(A_log), the convolution without its empty axis."""
    out.add_context_length(CONTEXT)
    out.add_feed_forward_length(0)
    out.add_head_count(0)
    out.add_ssm_conv_kernel(config["conv_kernel"])
    out.add_ssm_inner_size(config["intermediate_size"])
    out.add_ssm_state_size(config["state_size"])
    out.add_ssm_time_step_rank(config["time_step_rank"])
    out.add_layer_norm_rms_eps(config["layer_norm_epsilon"])

    def convert(name: str, tensor: Any) -> Any:
        if name.endswith("A_log"):
            return -np.exp(tensor)
        return tensor.squeeze(1) if name.endswith("conv1d.weight") else tensor

    return convert


def _vocabulary(out: gguf.GGUFWriter, size: int) -> None:
    """Tokens that are nothing but different: the benchmark hands over ids."""
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list([f"t{number}" for number in range(size)])
    out.add_token_types([gguf.TokenType.NORMAL] * size)
    out.add_token_merges(["t 0"])
    out.add_eos_token_id(0)
    out.add_bos_token_id(0)


def _interleaved(tensor: Any, width: int) -> Any:
    """Rows of a projection in the order of llama.cpp's rotation: pairs beside one another, not half a head apart."""
    rows, columns = tensor.shape
    return tensor.reshape(rows // width, 2, width // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _llama3(rope: dict[str, Any], width: int) -> Any:
    """What every frequency is divided by, as transformers' `_compute_llama3_parameters` slows the long waves."""
    waves = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float64) / width)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = (rope["original_max_position_embeddings"] / waves - low) / (high - low)
    return (1 / ((1 - (share := np.clip(smooth, 0, 1))) / factor + share)).astype(np.float32)


def _tensors(model: Path) -> Any:
    """Names and float32 arrays of the one bfloat16 file, one at a time."""
    with (model / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, about in header.items():
            if name == "__metadata__":
                continue
            assert about["dtype"] == "BF16", about["dtype"]
            first, last = about["data_offsets"]
            file.seek(8 + length + first)
            half = np.frombuffer(file.read(last - first), np.uint16).astype(np.uint32) << 16
            yield name, half.view(np.float32).reshape(about["shape"])
