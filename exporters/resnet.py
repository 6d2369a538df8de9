"""ResNet (arXiv:1512.03385)."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
