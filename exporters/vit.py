"""Vision Transformer (arXiv:2010.11929): its pooler is of the pretraining, and classifiers are stored without it."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder(loose_pooler=True)
