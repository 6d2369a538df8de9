"""OLMo 2 (arXiv:2501.00656): norms behind attention and MLP, and over all heads' queries and keys together."""

from __future__ import annotations

from ._decoder.exporter import Decoder

EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 50279,
        "pad_token_id": 1,
    },
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    qk_norm="width",
    before_mixer="",
    after_mixer="post_attention_layernorm",
    before_mlp="",
    after_mlp="post_feedforward_layernorm",
)
