"""A tiny chat model with random weights: a Llama of transformers with a byte-level tokenizer and a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = (
    "one two three four five six seven eight nine ten",
    "the quick brown fox jumps over the lazy dog",
    "¿qué? 你好 🙂",
)


def save(folder: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
    """The folder with config.json, model.safetensors and the tokenizer's files. Needs torch and transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    size = tokenizer.get_vocab_size()
    config = {
        "vocab_size": size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(**{**config, **changes})).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def make_tokenizer() -> Any:
    """Byte-level BPE: every text has tokens, and a letter may take several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
