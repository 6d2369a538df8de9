"""SmolLM3: Llama without rotation in every fourth layer (NoPE, arXiv:2501.18795)."""

from __future__ import annotations

from ._decoder.config import Config
from ._decoder.exporter import Decoder, layer_types


def _rotated(config: Config, count: int) -> list[bool]:
    """`no_rope_layers` says 1 where there is a rotation."""
    stated = config.items("no_rope_layers", int, count)
    if stated is not None:
        return [bool(one) for one in stated]
    every = config.size("no_rope_layer_interval")
    return [(layer + 1) % every != 0 for layer in range(count)]


def _windows(config: Config, count: int) -> list[int | None]:
    """Where they are wanted at all, layers without rotation have one, if `layer_types` does not say otherwise."""
    if not config.flag("use_sliding_window"):
        return [None] * count
    return layer_types(config, count, [not rotated for rotated in _rotated(config, count)])


EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "pad_token_id": 128004,
    },
    theta=2_000_000.0,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
    windows=_windows,
    ropes=lambda config, count: ["rotary" if rotated else "" for rotated in _rotated(config, count)],
)
