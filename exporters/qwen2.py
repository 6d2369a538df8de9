"""Qwen2 and Qwen2.5 (arXiv:2407.10671): biases on queries, keys and values; windows in the upper layers if wanted."""

from __future__ import annotations

from ._decoder.exporter import Decoder, upper_windows

EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    qkv_bias=True,
    windows=upper_windows,
)
