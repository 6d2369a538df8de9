"""MobileNet (arXiv:1704.04861); TensorFlow's padding is a constant for the size that the graph is made for."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder()
