"""Mamba (arXiv:2312.00752): a selective state space in every layer, no attention and no MLP."""

from __future__ import annotations

import math

from ._decoder.config import Config
from ._decoder.exporter import Decoder, nowhere
from ._decoder.parts import Convolution, Linear, Selective


def state_space(config: Config, home: str) -> Selective:
    """The mixer of the layer whose tensors' names begin with `home`."""
    hidden, states = config.size("hidden_size"), config.size("state_size")
    channels = config.size_or_none("intermediate_size") or config.size("expand") * hidden
    at, bias = f"{home}mixer.", config.flag("use_bias")
    rank = math.ceil(hidden / 16) if config.get("time_step_rank") == "auto" else config.size("time_step_rank")
    return Selective(
        into=Linear(f"{at}in_proj", hidden, 2 * channels, bias),
        conv=Convolution(f"{at}conv1d", channels, config.size("conv_kernel", least=2), config.flag("use_conv_bias")),
        out=Linear(f"{at}out_proj", channels, hidden, bias),
        x=Linear(f"{at}x_proj", channels, rank + 2 * states),
        dt=Linear(f"{at}dt_proj", rank, channels, bias=True, narrow=True),
        states_each=states,
        log_a=f"{at}A_log",
        d=f"{at}D",
        epsilon=None,
    )


EXPORTER = Decoder(
    defaults={
        "conv_kernel": 4,
        "expand": 2,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "state_size": 16,
        "tie_word_embeddings": True,
        "time_step_rank": "auto",
        "use_bias": False,
        "use_conv_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
    prefix="backbone.",
    embed="embeddings",
    before_mixer="norm",
    mlp=False,
    norm="norm_f",
    epsilon="layer_norm_epsilon",
    attends=nowhere,
    recurrent=lambda config, home, attends: state_space(config, home),
)
