"""MPNet (arXiv:2004.09297): positions like RoBERTa's, and a relative position bias shared by all layers."""

from __future__ import annotations

from .roberta import EXPORTER as EXPORTER
