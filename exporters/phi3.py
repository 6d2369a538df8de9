"""Phi-3, Phi-3.5 and Phi-4 (arXiv:2404.14219): fused projections, longrope, in Phi-4-mini a partial rotation."""

from __future__ import annotations

from typing import Any

from ._decoder.config import Config
from ._decoder.exporter import Decoder, one_window
from ._decoder.rope import parameters


def _rope_parameters(config: Config, theta: float) -> dict[str, dict[str, Any]]:
    """Early configs call longrope `su` or `yarn`."""
    told = parameters(config, theta)
    if told["rope_type"] in ("su", "yarn"):
        told["rope_type"] = "longrope"
    return {"rotary": told}


EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    qkv=("self_attn.qkv_proj",),
    gate_up=("mlp.gate_up_proj",),
    windows=one_window,
    rope_parameters=_rope_parameters,
    partial_rotary=True,
)
