"""Mistral (arXiv:2310.06825): Llama with a sliding window in every layer; later ones set it to null."""

from __future__ import annotations

from ._decoder.exporter import Decoder, one_window

EXPORTER = Decoder(
    defaults={
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    windows=one_window,
)
