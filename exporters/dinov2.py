"""DINOv2 (arXiv:2304.07193): the vector is the CLS token after the last normalization."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
