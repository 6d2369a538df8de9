"""EfficientNet (arXiv:1905.11946)."""

from __future__ import annotations

from typing import Any

from ._vision.image_encoder import ImageEncoder


def pool_globally(model: Any) -> None:
    """Pool over the whole map, as the model does with a kernel larger than it, which OpenVINO refuses."""
    import torch

    pools = {"mean": torch.nn.AdaptiveAvgPool2d, "max": torch.nn.AdaptiveMaxPool2d}
    model.base_model.pooler = pools[model.config.pooling_type](1)


EXPORTER = ImageEncoder(adapt=pool_globally)
