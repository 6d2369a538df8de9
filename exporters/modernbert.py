"""ModernBERT (arXiv:2412.13663): rotary positions, and local attention in two layers of three."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(rotary=True)
