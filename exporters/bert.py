"""BERT (arXiv:1810.04805), and with it all-MiniLM and BGE: two kinds of token types."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(token_types=True)
