"""Elman networks, tanh or relu: torch.nn.RNN with a head."""

from __future__ import annotations

from ._recurrent import Recurrent

EXPORTER = Recurrent("RNN")
