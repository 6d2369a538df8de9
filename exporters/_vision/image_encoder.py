"""Exporter for image classifiers and feature extractors, traced: pixels in, logits or one vector per image out.

An architecture's file states its own in one `ImageEncoder`; this file holds what all of them share. Height and width
are what the image processor gives, and fixed: whatever depends on them (padding, position tables, masks of windows) is
a constant of the graph. How an image becomes pixels is `preprocessor`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Source
from edgekit.errors import UnsupportedError

from .._labels import labels, problem
from .._trace import transformers_model
from .._trace.trace import Tracing
from .._trace.traced import Traced
from .positions import fix_positions

if TYPE_CHECKING:
    import torch

CLASSIFICATION, FEATURES = "image-classification", "image-feature-extraction"
OUTPUTS = {CLASSIFICATION: "logits", FEATURES: "embedding"}
# Endings of a class named in config.json, without what a teacher adds to it, and the task that it serves.
ENDINGS = {"ForImageClassification": CLASSIFICATION, "Model": FEATURES, "Backbone": FEATURES}
CHANNELS = 3
# Of a normalization's statistics: inference does not read it, and older files lack it.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ImageEncoder(Traced):
    """One architecture.

    `attention`: the implementation of transformers' that can be traced, where it is not its default. `loose_pooler`:
    the pooler has weights of its own, which a checkpoint may lack; the vector is then the CLS token after the last
    normalization. `adapt`: changes a loaded model in place, so that it can be traced, and every engine runs it.
    """

    attention: str | None = None
    loose_pooler: bool = False
    adapt: Callable[[Any], None] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(OUTPUTS)

    def task(self, source: Source) -> str:
        """The task that the model was made for, from the class its config names.

        Raises UnsupportedError for a class of another task.
        """
        name = next(iter(source.config.get("architectures") or ()), "")
        task = next((task for end, task in ENDINGS.items() if name.removesuffix("WithTeacher").endswith(end)), "")
        if not task and not source.random:
            raise UnsupportedError(f"cannot tell the task of {name or source.id!r}", hint="name it with --task")
        return task or FEATURES

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """All that the device must know, as JSON."""
        settings = {"output": OUTPUTS[task], "image": _pixels(source)[0]}
        if task == FEATURES:
            return settings | {"pooling": "none", "normalize": False}
        return settings | {"labels": labels(source.config), "problem": problem(source.config)}

    def trace(self, source: Source, task: str) -> Tracing:
        """The model in torch, wrapped, with feeds of every batch size that the proof needs.

        Raises UnsupportedError where weights of the task are missing, or images are not of one size.
        """
        _, (height, width) = _pixels(source)
        model = self._load(source, task)
        options = fix_positions(model, height, width)
        if self.adapt is not None:
            self.adapt(model)

        def feed(sizes: Mapping[str, int], seed: int) -> dict[str, torch.Tensor]:
            import torch

            generator = torch.Generator().manual_seed(seed)
            return {"pixel_values": torch.randn((sizes["batch"], CHANNELS, height, width), generator=generator)}

        return Tracing(
            module=_wrap(model, task, options),
            inputs={"pixel_values": ("batch", CHANNELS, height, width)},
            outputs={OUTPUTS[task]: ("batch", -1)},
            feed=feed,
            shapes=({"batch": 1}, {"batch": 4}, {"batch": 2}),
        )

    def _load(self, source: Source, task: str) -> torch.nn.Module:
        """The task's model in float32, for inference."""
        from transformers import AutoModel, AutoModelForImageClassification

        config = transformers_model.config_of(source)
        config.architectures = config.architectures or []  # what transformers chooses a class by
        attention = {"attn_implementation": self.attention} if self.attention else {}
        model_class = AutoModelForImageClassification if task == CLASSIFICATION else AutoModel
        transformers_model.concrete(model_class, config, task)
        model, absent = transformers_model.load(model_class, source, config, **attention)
        unneeded = [name for name in absent if name.endswith(COUNTER)]
        missing = [name for name in absent if name not in unneeded]
        if self.loose_pooler and missing and all(name.startswith("pooler.") for name in missing):
            model.pooler, unneeded = None, absent
        transformers_model.check_weights(absent, model, task, source, unneeded)
        loaded: torch.nn.Module = model
        return loaded


def _pixels(source: Source) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The steps from an image to pixels, as the bundle's settings say them, and the pixels' height and width.

    Raises UnsupportedError where that size depends on the image.
    """
    from .preprocessor import output_size, steps_of

    steps = steps_of(source)
    size = output_size(steps)
    if size is None:
        raise UnsupportedError(
            f"the image processor of {source.id} gives images of many sizes, and the graph takes one",
            hint="set size to a height and a width in its preprocessor_config.json",
        )
    return steps, size


def _wrap(model: torch.nn.Module, task: str, options: Mapping[str, Any]) -> torch.nn.Module:
    import torch

    class Encoder(torch.nn.Module):
        """Takes pixels by position and gives one tensor of rank 2, so that every port has a name of ours."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *feeds: torch.Tensor) -> torch.Tensor:
            outputs = self.model(pixel_values=feeds[0], return_dict=True, **options)
            if task == CLASSIFICATION:
                logits: torch.Tensor = outputs["logits"]
                return logits
            vector = outputs.get("pooler_output")
            return outputs["last_hidden_state"][:, 0] if vector is None else vector.flatten(1)

    return Encoder().eval()  # also the wrapper: torch.onnx.export gives the model inside the wrapper's mode
