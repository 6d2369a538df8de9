"""Nomic BERT (arXiv:2402.01613): BERT with rotary positions and gated layers; trained for Matryoshka cuts."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(token_types=True, rotary=True)
