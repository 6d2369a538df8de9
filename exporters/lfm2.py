"""LFM2 (arXiv:2511.23404): short gated convolutions, with attention in some of the layers."""

from __future__ import annotations

import math

from edgekit.errors import UnsupportedError

from ._decoder.config import Config
from ._decoder.exporter import Decoder
from ._decoder.parts import Convolution, Linear, ShortConv


def _attends(config: Config, count: int) -> list[bool]:
    """By `layer_types`, or by their numbers in `full_attn_idxs`; with neither, all."""
    kinds = config.items("layer_types", str, count)
    if kinds is None:
        numbers = config.items("full_attn_idxs", int)
        return [numbers is None or number in numbers for number in range(count)]
    for kind in kinds:
        if kind not in ("full_attention", "conv"):
            raise UnsupportedError(f"layers of type {kind!r:.60} are not known", hint="known: full_attention, conv")
    return [kind == "full_attention" for kind in kinds]


def _short_conv(config: Config, home: str, attends: bool) -> ShortConv | None:
    if attends:
        return None
    hidden, bias, at = config.size("hidden_size"), config.flag("conv_bias"), f"{home}conv."
    return ShortConv(
        into=Linear(f"{at}in_proj", hidden, 3 * hidden, bias),
        conv=Convolution(f"{at}conv", hidden, config.size("conv_L_cache", least=2), bias),
        out=Linear(f"{at}out_proj", hidden, hidden, bias),
    )


def _inner(config: Config) -> int:
    """The MLP's width: two thirds of what is stated, times a factor, up to the next multiple."""
    stated = config.size("intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim"):
        return stated
    width, multiple = int(2 * stated / 3), config.size("block_multiple_of")
    return multiple * math.ceil(int(config.above_zero("block_ffn_dim_multiplier") * width) / multiple)


EXPORTER = Decoder(
    defaults={
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "conv_L_cache": 3,
        "hidden_act": "silu",
        "max_position_embeddings": 128_000,
        "norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    words={"intermediate_size": "block_ff_dim", "tie_word_embeddings": "tie_embedding"},
    o="self_attn.out_proj",
    gate_up=("feed_forward.w1", "feed_forward.w3"),
    down="feed_forward.w2",
    inner=_inner,
    before_mixer="operator_norm",
    before_mlp="ffn_norm",
    norm="embedding_norm",
    epsilon="norm_eps",
    qk_norm="head",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    theta=1_000_000.0,
    attends=_attends,
    recurrent=_short_conv,
)
