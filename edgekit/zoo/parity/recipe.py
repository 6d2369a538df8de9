"""How zoo:parity is made: `python -m edgekit.zoo.parity.recipe [--out FOLDER] [--steps N]`, minutes on one core.

A two-layer BERT reads a number from 0 to 999,999, in words or in digits. Its pooled first token says odd or even; its
mean-pooled tokens are an embedding in which the words and the digits of one number lie together, and numbers that
differ in a single digit do not. The folder is at once a transformers and a sentence-transformers model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.zoo import _training
from edgekit.zoo.words import LIMIT, SCALES, TENS, UNITS, cardinal, held_out

STEPS = 1200
GROUPS = 48  # in a batch; each is a number and some that differ from it in one digit
SIBLINGS = 3
TESTED = 1000
LABELS = ("even", "odd")
TEMPERATURE = 0.05
MAX_TOKENS = 32
_DIGITS_WEIGHTS = (1, 2, 8, 16, 24, 32)  # how often a number of one, two, … six digits is drawn
_MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
CARD = {
    "name": "parity",
    "what": "Tells odd from even, and puts the words and the digits of one number together.",
    "range": "0 to 999,999, in lower- or upper-case English words without 'and', or in digits without separators",
    "made_by": "python -m edgekit.zoo.parity.recipe",
}


def siblings(n: int) -> list[int]:
    """The numbers with as many digits as n that differ from it in exactly one."""
    text = str(n)
    changed = (text[:at] + digit + text[at + 1 :] for at in range(len(text)) for digit in "0123456789")
    return [int(other) for other in changed if other != text and (other[0] != "0" or len(text) == 1)]


def groups(rng: random.Random, *, testing: bool) -> Iterator[list[int]]:
    """Endless groups of near numbers: only held-out ones for testing, only others for training."""
    while True:
        digits = rng.choices(range(1, 7), _DIGITS_WEIGHTS)[0]
        n = rng.randrange(0 if digits == 1 else 10 ** (digits - 1), min(10**digits, LIMIT))
        if held_out(n) is testing:
            near = [other for other in siblings(n) if held_out(other) is testing]
            yield [n, *rng.sample(near, min(SIBLINGS, len(near)))]


def heldout_numbers() -> list[int]:
    """The numbers of heldout.json, each once, near ones side by side."""
    found: dict[int, None] = {}
    for group in groups(random.Random(_training.SEED), testing=True):
        found.update(dict.fromkeys(group))
        if len(found) >= TESTED:
            return list(found)[:TESTED]
    raise AssertionError("groups() is endless")


def training_batches(seed: int) -> Iterator[list[int]]:
    """Endless batches of numbers, each number once in a batch."""
    source = groups(random.Random(seed), testing=False)
    while True:
        yield list(dict.fromkeys(n for _ in range(GROUPS) for n in next(source)))


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: words in the first half of the inputs, digits of the same numbers in the second."""
    tested = heldout_numbers()
    trained = next(training_batches(_training.SEED + 1))[:64]
    return {
        "tasks": {
            "feature-extraction": {"metric": "recall@1", "expected": list(range(len(tested), 2 * len(tested)))},
            "text-classification": {"metric": "accuracy", "expected": [LABELS[n % 2] for n in tested * 2]},
        },
        "calibration": [form for n in trained for form in (cardinal(n), str(n))],
        "inputs": [*map(cardinal, tested), *map(str, tested)],
    }


def make_model(vocabulary: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        id2label=dict(enumerate(LABELS)),
        label2id={label: at for at, label in enumerate(LABELS)},
    )
    return BertForSequenceClassification(config)


def read(model: Any, tokenizer: Any, texts: list[str]) -> tuple[Any, Any]:
    """Unit vectors (texts, width) by mean pooling over the real tokens, and logits (texts, 2), in one pass."""
    import torch

    feeds = tokenizer(texts, padding=True, return_tensors="pt")
    out = model(**feeds, output_hidden_states=True)
    real = feeds["attention_mask"].unsqueeze(-1)
    mean = (out.hidden_states[-1] * real).sum(1) / real.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1), out.logits


def train(model: Any, tokenizer: Any, steps: int) -> None:
    """Contrast words with digits in both directions (InfoNCE, https://arxiv.org/abs/1807.03748), and tell parity."""
    import torch
    from torch.nn.functional import cross_entropy

    batches = training_batches(_training.SEED)

    def loss_at(step: int) -> Any:
        numbers = next(batches)
        words, words_logits = read(model, tokenizer, [cardinal(n) for n in numbers])
        digits, digits_logits = read(model, tokenizer, [str(n) for n in numbers])
        alike = words @ digits.T / TEMPERATURE
        own, odd = torch.arange(len(numbers)), torch.tensor([n % 2 for n in numbers])
        together = cross_entropy(alike, own) + cross_entropy(alike.T, own)
        return together + cross_entropy(words_logits, odd) + cross_entropy(digits_logits, odd)

    _training.fit(model, loss_at, steps=steps, rate=2e-3)


def answers(model: Any, tokenizer: Any, task: str, inputs: list[str]) -> Any:
    """What the float32 model answers under torch, as the metric of `task` wants it."""
    import torch

    with torch.inference_mode():
        parts = [read(model, tokenizer, inputs[at : at + 100]) for at in range(0, len(inputs), 100)]
    if task == "feature-extraction":
        return torch.cat([vectors for vectors, _ in parts]).numpy()
    return [LABELS[at] for _, logits in parts for at in logits.argmax(-1).tolist()]


def write_sentence_transformers(folder: Path, width: int) -> None:
    """The files that make `SentenceTransformer(folder)` pool and normalize."""
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(_MODULES.items())
    ]
    _training.write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    _training.write_json(folder / "1_Pooling" / "config.json", pooling)
    _training.write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    similar: dict[str, object] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _training.write_json(folder / "config_sentence_transformers.json", similar)


def main() -> None:
    chosen = _training.options("parity", STEPS)
    _training.be_deterministic()
    tokenizer = _training.wordpiece([*"0123456789", "-", *UNITS, *TENS, *SCALES], MAX_TOKENS)
    model = make_model(len(tokenizer))
    train(model, tokenizer, chosen.steps)
    data = heldout_data()
    _training.save(model, tokenizer, chosen.out)
    write_sentence_transformers(chosen.out, model.config.hidden_size)
    _training.write_json(chosen.out / "heldout.json", data)
    _training.write_card(chosen, model, CARD, data, lambda task: answers(model, tokenizer, task, data["inputs"]))


if __name__ == "__main__":
    main()
