"""Makes tiny Hugging Face folders: an architecture's own config, random weights, and a tokenizer of bytes.

Knows no architecture by name: sizes are set where the architecture's config class has them, under its own word for
each, so that a new exporter is tested without an edit here.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from edgekit.core import Source
from edgekit.source import resolve
from edgekit.standin import stand_in_tokenizer

VOCABULARY = 300
LENGTH = 200  # longer than the 128 tokens of a local attention window
LABELS = {0: "no", 1: "yes", 2: "perhaps"}
# Words of several lengths, and none: what comes in a batch.
TEXTS = (
    "a",
    "two words",
    "a sentence that is a good deal longer than the others, with a comma",
    "Zürich – 東京",
    "end",
)

# Hugging Face's common words for sizes; each architecture has its own for some (`attribute_map`) and lacks others.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH + 2,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
SPECIAL: dict[str, Any] = {
    "pad_token_id": 1,
    "unk_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "mask_token_id": 4,
}


def make(folder: Path, arch: str, ending: str = "Model", **changes: Any) -> Path:
    """A folder with a model of class `<Arch><ending>`, e.g. `ForMaskedLM`; `changes` to its config."""
    import torch
    import transformers

    config = tiny_config(arch, **changes)
    torch.manual_seed(0)
    model = AUTO[ending](transformers).from_config(config).eval()
    spread(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def tiny_config(arch: str, **changes: Any) -> Any:
    """transformers' config for this exporter's name, with small sizes."""
    from transformers import AutoConfig

    kind = model_type(arch)
    known = AutoConfig.for_model(kind)
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name)}
    return AutoConfig.for_model(kind, **sizes | changes)


def model_type(arch: str) -> str:
    """transformers' spelling of an exporter's file name: it writes some with a dash."""
    from transformers import CONFIG_MAPPING

    return next(str(kind) for kind in CONFIG_MAPPING if kind.replace("-", "_") == arch)


AUTO: dict[str, Any] = {
    "Model": lambda library: library.AutoModel,
    "ForSequenceClassification": lambda library: library.AutoModelForSequenceClassification,
    "ForTokenClassification": lambda library: library.AutoModelForTokenClassification,
    "ForMaskedLM": lambda library: library.AutoModelForMaskedLM,
}


def spread(model: Any) -> None:
    """Weights as far apart as trained ones: what is initialized at 0.02 gives the same answer to every text."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
            elif not bool(parameter.any()):  # biases, all zero so far
                parameter.normal_(0.0, 0.1)


def write_tokenizer(folder: Path, *, token_types: bool = True) -> None:
    """tokenizer.json with a token per byte, and what transformers wants beside it."""
    made = stand_in_tokenizer(VOCABULARY, **SPECIAL)
    (folder / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH, "model_input_names": inputs}
    told |= named
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")


def source_of(folder: Path) -> Source:
    """As `edgekit.export` resolves it."""
    return resolve(str(folder), offline=True)


def as_source(config: Any, folder: Path) -> Source:
    """A config by itself, as `random:` names one."""
    return Source("random:tiny", config.model_type.replace("-", "_"), folder, "", config.to_dict(), random=True)


def write_weights(folder: Path, **tensors: list[list[float]]) -> None:
    """A model.safetensors that holds these float32 matrices, and nothing that a model could use."""
    header, data = {}, b""
    for name, rows in tensors.items():
        numbers = [number for row in rows for number in row]
        begin, data = len(data), data + struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [len(rows), len(rows[0])], "data_offsets": [begin, len(data)]}
    told = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(told)) + told + data)
