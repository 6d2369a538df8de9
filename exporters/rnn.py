"""Elman networks, tanh or relu: torch.nn.RNN with a head."""

from __future__ import annotations

from ._recurrent.exporter import Recurrent

EXPORTER = Recurrent("RNN")
