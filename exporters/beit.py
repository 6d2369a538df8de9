"""BEiT (arXiv:2106.08254): a bias of relative positions in each layer.

torch.onnx cannot trace fused attention with such a bias.
"""

from __future__ import annotations

from ._vision.image_encoder import ImageEncoder

EXPORTER = ImageEncoder(attention="eager")
