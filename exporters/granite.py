"""Granite 3 (IBM): Llama with a multiplier on embeddings, attention, residuals and logits (arXiv:2203.03466)."""

from __future__ import annotations

from ._decoder.exporter import Decoder

EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
    attention_scale=lambda config, layer: config.number("attention_multiplier"),
    embedding_scale=lambda config: config.number("embedding_multiplier"),
    residual_scale=lambda config: config.number("residual_multiplier"),
    logits_divisor=lambda config: config.number("logits_scaling"),
)
