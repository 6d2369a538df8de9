"""ConvNeXt (arXiv:2201.03545)."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
