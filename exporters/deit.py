"""DeiT (arXiv:2012.12877): ViT with a token more. Distilled, it has two heads, whose mean transformers gives."""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder(loose_pooler=True)
