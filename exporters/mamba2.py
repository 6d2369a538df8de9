"""Mamba 2 (arXiv:2405.21060): heads whose states decay as one, in every layer; no attention and no MLP."""

from __future__ import annotations

import math

from edgekit.errors import BundleError

from ._decoder.config import AGAIN, Config
from ._decoder.exporter import Decoder, nowhere
from ._decoder.parts import Convolution, Dual, Linear, Norm


def state_space(config: Config, at: str, channels: int) -> Dual:
    """The part whose tensors' names begin with `at`."""
    hidden, states, bias = config.size("hidden_size"), config.size("state_size"), config.flag("use_bias")
    heads, head_dim, groups = config.size("num_heads"), config.size("head_dim"), config.size("n_groups")
    if heads * head_dim != channels or heads % groups:
        raise BundleError(
            f"config.json: {heads} heads of {head_dim} in {groups} groups are not {channels} channels", hint=AGAIN
        )
    convolved = channels + 2 * groups * states
    low, high = config.numbers("time_step_limit", 2, most=math.inf) or (0.0, math.inf)
    return Dual(
        into=Linear(f"{at}in_proj", hidden, channels + convolved + heads, bias),
        conv=Convolution(f"{at}conv1d", convolved, config.size("conv_kernel", least=2), config.flag("use_conv_bias")),
        out=Linear(f"{at}out_proj", channels, hidden, bias),
        heads=heads,
        head_dim=head_dim,
        groups=groups,
        states_each=states,
        log_a=f"{at}A_log",
        d=f"{at}D",
        dt_bias=f"{at}dt_bias",
        limit=(low, high),
        norm=Norm(f"{at}norm", channels),
        gate_first=True,
    )


def _state_space(config: Config, home: str, attends: bool) -> Dual:
    return state_space(config, f"{home}mixer.", config.size("expand") * config.size("hidden_size"))


EXPORTER = Decoder(
    defaults={
        "conv_kernel": 4,
        "expand": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "n_groups": 8,
        "num_heads": 128,
        "state_size": 128,
        "use_bias": False,
        "use_conv_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    prefix="backbone.",
    embed="embeddings",
    before_mixer="norm",
    mlp=False,
    norm="norm_f",
    epsilon="layer_norm_epsilon",
    attends=nowhere,
    recurrent=_state_space,
)
