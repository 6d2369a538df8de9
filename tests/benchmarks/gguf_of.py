"""A llama or qwen3 checkpoint of Hugging Face as a float16 GGUF file with a tokenizer that only counts.

llama.cpp's own converter is not in any package. Knows the tensors' names by the tables of the package `gguf`
(https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py) and what else a file must say.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write(model: Path, file: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kind = KINDS[config["model_type"]]
    out = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[kind])
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config["rope_theta"]}
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(config["num_key_value_heads"])
    width = config.get("head_dim") or config["hidden_size"] // heads
    out.add_key_length(width)
    out.add_value_length(width)
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_dimension_count(width)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _vocabulary(out, config["vocab_size"])
    if rope.get("rope_type") == "llama3":
        out.add_tensor("rope_freqs.weight", _llama3(rope, width))
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, tensor in _tensors(model):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        known = names.get_name(name, try_suffixes=(".weight",))
        assert known is not None, name
        if kind == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _interleaved(tensor, width)
        out.add_tensor(known, tensor.astype(np.float32 if tensor.ndim == 1 else np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


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
