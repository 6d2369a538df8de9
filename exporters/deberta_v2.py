"""DeBERTa v2 and v3 (arXiv:2006.03654, arXiv:2111.09543): disentangled attention over relative positions."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(token_types=True)
