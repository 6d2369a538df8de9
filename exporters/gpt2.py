"""GPT-2 (Radford et al., 2019): learned positions, norms with biases, an MLP without a gate, weights transposed."""

from __future__ import annotations

from ._decoder.config import Config
from ._decoder.exporter import Decoder


def _attention_scale(config: Config, layer: int) -> float:
    head_dim = config.size("hidden_size") // config.size("num_attention_heads")
    scale = head_dim**-0.5 if config.flag("scale_attn_weights") else 1.0
    return scale / (layer + 1) if config.flag("scale_attn_by_inverse_layer_idx") else scale


EXPORTER = Decoder(
    defaults={
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_positions": 1024,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    words={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    rotary=False,
    prefix="transformer.",
    embed="wte",
    positions="wpe",
    layer="h.{}.",
    qkv=("attn.c_attn",),
    o="attn.c_proj",
    gate_up=("mlp.c_fc",),
    down="mlp.c_proj",
    before_mixer="ln_1",
    before_mlp="ln_2",
    norm="ln_f",
    unused=(".attn.bias", ".attn.masked_bias"),
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    norm_kind="layer",
    epsilon="layer_norm_epsilon",
    gated=False,
    conv1d=True,
    activation="activation_function",
    attention_scale=_attention_scale,
    refuse=("add_cross_attention",),
)
