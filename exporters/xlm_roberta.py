"""XLM-RoBERTa (arXiv:1911.02116), and with it BGE-M3: RoBERTa with another vocabulary."""

from __future__ import annotations

from .roberta import EXPORTER as EXPORTER
