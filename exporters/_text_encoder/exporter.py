"""Exporter for text encoders, traced: token ids and a mask in, hidden states or logits out.

An architecture's file says what is its own in one `TextEncoder`; this file holds what all of them share: tasks,
what a Hugging Face folder says about length, padding and labels, and the module that is traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core import Source
from edgekit.errors import UnsupportedError
from edgekit.source import sentence_layout

from .._json_files import read_object
from .._labels import labels, problem
from .._trace import transformers_model
from .._trace.tokenizer import write_tokenizer
from .._trace.trace import Tracing
from .._trace.traced import Traced
from .sentence import sentence_settings

if TYPE_CHECKING:
    import torch

# task -> (ending of the class named in config.json, output, axes of that output)
TASKS: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "feature-extraction": ("Model", "last_hidden_state", ("batch", "sequence", -1)),
    "text-classification": ("ForSequenceClassification", "logits", ("batch", -1)),
    "text-ranking": ("ForSequenceClassification", "logits", ("batch", -1)),
    "token-classification": ("ForTokenClassification", "logits", ("batch", "sequence", -1)),
    "fill-mask": ("ForMaskedLM", "logits", ("batch", "sequence", -1)),
}
# Weights that a checkpoint may lack, as they feed nothing that we export for the task.
UNUSED = {"feature-extraction": "pooler."}


@dataclass(frozen=True)
class TextEncoder(Traced):
    """One architecture.

    `token_types`: it tells a pair's texts apart, where its config has more than one type. `offset`: positions at the
    start of the table that no token uses; None: those up to the padding id's own. `rotary`: it takes positions of
    shape (batch, sequence); left to itself it makes them of batch 1, and ONNX's RotaryEmbedding wants a row for each.
    """

    token_types: bool = False
    offset: int | None = 0
    rotary: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(TASKS)

    def task(self, source: Source) -> str:
        """The task that the folder was made for, from its modules.json, else from the class its config names."""
        if sentence_layout.home(source.folder) is not None:
            return "feature-extraction"
        name = next(iter(source.config.get("architectures") or ()), "")
        found = next((task for task, (ending, *_) in TASKS.items() if name.endswith(ending)), "")
        if found == "text-classification" and len(labels(source.config)) == 1:
            return "text-ranking"
        if not found and not source.random:
            raise UnsupportedError(f"cannot tell the task of {name or source.id!r}", hint="name it with --task")
        return found or "feature-extraction"

    def inputs(self, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
        """The graph's inputs, in order. A tokenizer may say that the model was trained without token types."""
        given = "token_type_ids" in (tokenizer.get("model_input_names") or ("token_type_ids",))
        typed = self.token_types and given and int(config.get("type_vocab_size") or 0) > 1
        return ("input_ids", "attention_mask", "token_type_ids") if typed else ("input_ids", "attention_mask")

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """All that the device must know, as JSON; arrays that the head needs are written into `folder`."""
        write_tokenizer(source, folder)
        config, tokenizer = source.config, read_object(source.folder / "tokenizer_config.json")
        settings: dict[str, Any] = {
            "tokenizer": "tokenizer.json",
            "inputs": list(self.inputs(config, tokenizer)),
            "max_length": self._max_length(config, tokenizer),
            "pad_id": config.get("pad_token_id") or 0,
            "vocab_size": config["vocab_size"],
            "output": TASKS[task][1],
        }
        if task == "feature-extraction":
            settings |= sentence_settings(source.folder, folder, positions=self._max_length(config, {}))
        elif task == "fill-mask":
            settings |= _mask(source.folder, tokenizer)
        else:
            settings |= {"labels": labels(config)}
            if task != "token-classification":
                settings |= {"problem": problem(config), "activation": _activation(config)}
        return settings

    def _max_length(self, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
        unused = self.offset if self.offset is not None else int(config.get("pad_token_id") or 0) + 1
        positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512) - unused
        stated = tokenizer.get("model_max_length")
        return int(min(positions, stated)) if isinstance(stated, (int, float)) and stated > 0 else positions

    def trace(self, source: Source, task: str) -> Tracing:
        """The model in torch, wrapped, with feeds of every shape that the proof needs."""
        config, tokenizer = source.config, read_object(source.folder / "tokenizer_config.json")
        inputs = self.inputs(config, tokenizer)
        pad, vocabulary = config.get("pad_token_id") or 0, int(config["vocab_size"])
        longest = min(150, self._max_length(config, {}))  # beyond a local attention window of 128

        def feed(sizes: Mapping[str, int], seed: int) -> dict[str, torch.Tensor]:
            return _feed(inputs, sizes, seed, pad, vocabulary, int(config.get("type_vocab_size") or 1))

        return Tracing(
            module=_wrap(_load(source, task), inputs, TASKS[task][1], rotary=self.rotary),
            inputs=dict.fromkeys(inputs, ("batch", "sequence")),
            outputs={TASKS[task][1]: TASKS[task][2]},
            feed=feed,
            shapes=(
                {"batch": 1, "sequence": 5},
                {"batch": 4, "sequence": 16},
                {"batch": 2, "sequence": longest},
            ),
        )


def _feed(
    inputs: tuple[str, ...], sizes: Mapping[str, int], seed: int, pad: int, vocabulary: int, types: int
) -> dict[str, torch.Tensor]:
    """Random ids; every second row is padded in its second half, as a batch of unequal texts would be."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shape = (sizes["batch"], sizes["sequence"])
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    ids[ids == pad] = (pad + 1) % vocabulary
    mask = torch.ones(shape, dtype=torch.int64)
    mask[1::2, shape[1] // 2 :] = 0
    ids[mask == 0] = pad
    kinds = torch.randint(0, types, shape, generator=generator) * mask
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
    return {name: feeds[name] for name in inputs}


def _load(source: Source, task: str) -> torch.nn.Module:
    """The task's model in float32, for inference. Raises UnsupportedError where weights of the task are missing."""
    from optimum.exporters.tasks import TasksManager

    synonym = "text-classification" if task == "text-ranking" else task
    model_class = TasksManager.get_model_class_for_task(synonym, framework="pt", library="transformers")
    config = transformers_model.config_of(source)
    concrete = transformers_model.concrete(model_class, config, task)
    attention = {"attn_implementation": "sdpa" if getattr(concrete, "_supports_sdpa", False) else "eager"}
    model, absent = transformers_model.load(model_class, source, config, **attention)
    unneeded = [name for name in absent if task in UNUSED and UNUSED[task] in name]
    transformers_model.check_weights(absent, model, task, source, unneeded)
    found: torch.nn.Module = model
    return found


def _wrap(model: torch.nn.Module, inputs: tuple[str, ...], output: str, *, rotary: bool) -> torch.nn.Module:
    import torch

    class Encoder(torch.nn.Module):
        """Takes its inputs by position and gives one tensor, so that every port has a name of ours."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *feeds: torch.Tensor) -> torch.Tensor:
            named = dict(zip(inputs, feeds, strict=True))
            if rotary:
                named["position_ids"] = torch.arange(feeds[0].shape[1]).expand(feeds[0].shape)
            return self.model(**named, return_dict=True)[output]

    return Encoder().eval()


def _activation(config: Mapping[str, Any]) -> str:
    """What sentence-transformers' CrossEncoder does to the one logit: its own default is the sigmoid."""
    stated = (config.get("sentence_transformers") or {}).get("activation_fn")
    stated = stated or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    name = str(stated).rsplit(".", 1)[-1].lower()
    if name not in ("sigmoid", "identity"):
        raise UnsupportedError(f"cross-encoder activation {stated!r} is not known", hint="known: Sigmoid, Identity")
    return name


def _mask(folder: Path, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The mask token and its id, from the tokenizer's own files."""
    token = tokenizer.get("mask_token") or read_object(folder / "special_tokens_map.json").get("mask_token") or "[MASK]"
    text = token["content"] if isinstance(token, dict) else token
    vocabulary = read_object(folder / "tokenizer.json")
    for added in vocabulary.get("added_tokens", []):
        if added["content"] == text:
            return {"mask_token": text, "mask_id": int(added["id"])}
    raise UnsupportedError(
        f"tokenizer.json has no mask token {text!r}", hint="fill-mask needs a tokenizer that was made with a mask token"
    )
