"""Llama (arXiv:2302.13971 and after), and with it SmolLM 1 and 2, TinyLlama, Yi and others of its making."""

from __future__ import annotations

from ._decoder.exporter import Decoder

EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
)
