"""MPNet (arXiv:2004.09297): positions start at 2, and a relative position bias is shared by all layers."""

from __future__ import annotations

from ._text_encoder.exporter import TextEncoder

EXPORTER = TextEncoder(offset=2)
