"""Falcon Mamba (arXiv:2410.05355): Mamba, with norms over each token's time step, B and C."""

from __future__ import annotations

from dataclasses import replace

from ._decoder.config import Config
from ._decoder.parts import Selective
from .mamba import EXPORTER as MAMBA
from .mamba import state_space


def _state_space(config: Config, home: str, attends: bool) -> Selective:
    return replace(state_space(config, home), epsilon=config.number("mixer_rms_eps"))


EXPORTER = replace(MAMBA, defaults={**MAMBA.defaults, "mixer_rms_eps": 1e-6}, recurrent=_state_space)
