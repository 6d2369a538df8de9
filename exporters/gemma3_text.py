"""Gemma 3 (arXiv:2503.19786), text models: five layers with a window to one without, a rotation for each kind."""

from __future__ import annotations

from typing import Any

from ._decoder.config import Config
from ._decoder.exporter import Decoder, layer_types
from ._decoder.rope import parameters

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def _windows(config: Config, count: int) -> list[int | None]:
    every = config.size("sliding_window_pattern")
    return layer_types(config, count, [(layer + 1) % every != 0 for layer in range(count)])


def _ropes(config: Config, count: int) -> list[str]:
    return [LOCAL if window else GLOBAL for window in _windows(config, count)]


def _rope_parameters(config: Config, theta: float) -> dict[str, dict[str, Any]]:
    """transformers 5 has an object for each kind of layer; before, `rope_scaling` was for the global ones only."""
    told = Config(config.object("rope_parameters"))
    each = {
        GLOBAL: {**told.object(GLOBAL), **config.object("rope_scaling")},
        LOCAL: {"rope_theta": config.number("rope_local_base_freq"), **told.object(LOCAL)},
    }
    return {
        kind: parameters(config.replaced(rope_parameters=said, rope_scaling=None), theta) for kind, said in each.items()
    }


EXPORTER = Decoder(
    defaults={
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    theta=1_000_000.0,
    activation="hidden_activation",
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    qk_norm="head",
    after_mixer="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
    norm_offset=1.0,
    windows=_windows,
    ropes=_ropes,
    rope_parameters=_rope_parameters,
    attention_scale=lambda config, layer: config.number("query_pre_attn_scalar") ** -0.5,
    embedding_scale=lambda config: config.number("hidden_size") ** 0.5,
    logits_softcap="final_logit_softcapping",
    # transformers ignores a softcap in Gemma 3's attention: nobody can tell what such a model was trained with.
    refuse=("attn_logit_softcapping", "use_bidirectional_attention"),
)
