"""MobileViT (arXiv:2110.02178)."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
