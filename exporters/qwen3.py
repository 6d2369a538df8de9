"""Qwen3 (arXiv:2505.09388): each head's queries and keys are normed; a head's width is the config's own."""

from __future__ import annotations

from ._decoder.exporter import Decoder, upper_windows

EXPORTER = Decoder(
    defaults={
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    qk_norm="head",
    windows=upper_windows,
)
