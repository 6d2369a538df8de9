"""Long short-term memory (Hochreiter and Schmidhuber 1997) as torch.nn.LSTM computes it, with a head."""

from __future__ import annotations

from ._recurrent.exporter import Recurrent

EXPORTER = Recurrent("LSTM")
