"""Swin Transformer (arXiv:2103.14030): windows padded and masked for one image size.

torch.onnx cannot trace fused attention with a bias of positions.
"""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder(attention="eager")
