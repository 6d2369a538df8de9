"""RoBERTa (arXiv:1907.11692): no token types; positions count from the padding id on, so some rows are never used."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(offset=None)
