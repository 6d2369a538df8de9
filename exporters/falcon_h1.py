"""Falcon-H1 (arXiv:2507.22448): attention and Mamba 2 side by side in every layer, and a factor at every turn.

The factors are multiplied into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ._decoder.config import Config
from ._decoder.exporter import Decoder
from ._decoder.parts import Dual
from .mamba2 import state_space

WORDS = {
    "conv_kernel": "mamba_d_conv",
    "head_dim": "mamba_d_head",
    "n_groups": "mamba_n_groups",
    "num_heads": "mamba_n_heads",
    "state_size": "mamba_d_state",
    "use_bias": "mamba_proj_bias",
    "use_conv_bias": "mamba_conv_bias",
}


def _state_space(config: Config, home: str, attends: bool) -> Dual:
    hidden = config.size("hidden_size")
    channels = config.size_or_none("mamba_d_ssm") or config.size("mamba_expand") * hidden
    if config.get("mamba_d_head") == "auto":
        config = config.replaced(mamba_d_head=channels // config.size("mamba_n_heads"))
    made = state_space(replace(config, words=WORDS), f"{home}mamba.", channels)
    shared = made.groups * made.states_each
    parts = channels, channels, shared, shared, made.heads  # the gate, x, B, C, the time steps
    factors = config.numbers("ssm_multipliers", len(parts)) or (1.0,) * len(parts)
    return replace(
        made,
        into=replace(
            made.into, inward=config.number("ssm_in_multiplier"), factors=tuple(zip(parts, factors, strict=True))
        ),
        out=replace(
            made.out, bias=config.flag("projectors_bias"), factors=((hidden, config.number("ssm_out_multiplier")),)
        ),
        norm=made.norm if config.flag("mamba_rms_norm") else None,
        gate_first=not config.flag("mamba_norm_before_gate"),
    )


def _factors(config: Config) -> Mapping[str, tuple[float, float]]:
    inward = config.number("attention_in_multiplier")
    gate, down = config.numbers("mlp_multipliers", 2) or (1.0, 1.0)
    return {
        "q": (inward, 1.0),
        "k": (inward, config.number("key_multiplier")),
        "v": (inward, 1.0),
        "o": (1.0, config.number("attention_out_multiplier")),
        "gate": (1.0, gate),
        "down": (1.0, down),
    }


EXPORTER = Decoder(
    defaults={
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "hidden_act": "silu",
        "key_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_head": "auto",
        "mamba_d_ssm": 1024,
        "mamba_d_state": 256,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_n_heads": 128,
        "mamba_norm_before_gate": True,
        "max_position_embeddings": 8192,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": 1.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
    gate_up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
    before_mlp="pre_ff_layernorm",
    norm="final_layernorm",
    recurrent=_state_space,
    factors=_factors,
    embedding_scale=lambda config: config.number("embedding_multiplier"),
    logits_divisor=lambda config: 1 / config.above_zero("lm_head_multiplier"),
)
