"""DistilBERT (arXiv:1910.01108): BERT without token types."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder()
