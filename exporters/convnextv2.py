"""ConvNeXt V2 (arXiv:2301.00808)."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
