"""Tiny language models of random weights, opened on a target, with and without a chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny_chat
from built_decoders import build, config_of, folder_of, tensors

from edgekit import graph, registry
from edgekit.core import Recipe
from edgekit.runtimes.generation import Writer
from edgekit.runtimes.ingest import chat

CONTEXT = 128


def open_writer(folder: Path, name: str, arch: str) -> Writer:
    """A model of this architecture on this target; its session is the caller's to close."""
    target, config = registry.find("targets", name), config_of(arch)
    source = folder_of(folder / "source", config)
    # Weights that spread widely make answers that no two texts have in common.
    wide = {name: array * (3 if array.ndim == 2 else 1) for name, array in tensors(source).items()}
    noun = build(folder_of(folder / "source", config, wide), folder)
    model = target.compile(graph.load(folder / noun.path), Recipe())
    compiled = replace(graph.describe(model, "model", "compiled.onnx", {}), states=noun.states)
    (folder / compiled.path).write_bytes(graph.to_bytes(model))
    tiny_chat.make_tokenizer().save(str(folder / "tokenizer.json"))
    told = {"context_length": CONTEXT, "vocab_size": 320, "eos_ids": [1]}
    session = target.open(folder, compiled, Recipe(), threads=1)
    return Writer(session, chat.open(folder, told), told, f"{name} of a test")


def with_template(plain: Writer, folder: Path) -> Writer:
    tiny_chat.make_tokenizer().save(str(folder / "tokenizer.json"))
    told = {**plain.settings, "chat_template": tiny_chat.TEMPLATE}
    return replace(plain, ingest=chat.open(folder, told), settings=told)
