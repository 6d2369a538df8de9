"""Gated recurrent units (arXiv:1406.1078) as torch.nn.GRU computes them, with a head."""

from __future__ import annotations

from ._recurrent.exporter import Recurrent

EXPORTER = Recurrent("GRU")
