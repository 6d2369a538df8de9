"""How zoo:speaker is made: `python -m edgekit.zoo.speaker.recipe [--out FOLDER] [--steps N]`, minutes on one core.

A three-layer Llama with grouped-query attention goes on from `347 =` with `three hundred forty-seven` and the end
token. Its training rows hold one question after another, as a chat does, so that questions can follow in one context.
Outside of an answer the right next token is always the end: the model says nothing unless it is asked, and at every
place of every text one token is right, by which quantized weights can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgekit.zoo import _training
from edgekit.zoo.words import LIMIT, SCALES, TENS, UNITS, cardinal, held_out

STEPS = 1500
ROWS = 20  # in a batch, each of MAX_TOKENS tokens
TESTED = 500
MAX_TOKENS = 128
LONGEST_ANSWER = 16  # tokens; the right ones have at most ten
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
BEGIN, END, EQUALS = "<s>", "</s>", "▁="
WORDS = (*UNITS, *TENS, *SCALES)
ASIDE = 0.05  # how often a text that asks nothing stands in place of a question
CARD = {
    "name": "speaker",
    "what": "Says a number in words when asked `347 =`, and nothing when not asked.",
    "range": "0 to 999,999 in digits without separators; lower-case English words without 'and'",
    "made_by": "python -m edgekit.zoo.speaker.recipe",
}
_DIGITS_WEIGHTS = (1, 2, 8, 16, 24, 32)  # how often one, two, … six digits are drawn; leading zeros fall away
_DIGIT_WEIGHTS = (3, 2, 1, 1, 1, 1, 1, 1, 1, 1)  # of 0 … 9: a zero is not said, and a one makes teens


def prompt(n: int) -> str:
    return f"{n} ="


def numbers(rng: random.Random, *, testing: bool) -> Iterator[int]:
    """Endless numbers below LIMIT: only held-out ones for testing, only others for training."""
    while True:
        count = rng.choices(range(1, 7), _DIGITS_WEIGHTS)[0]
        n = int("".join(rng.choices("0123456789", _DIGIT_WEIGHTS, k=count)))
        assert n < LIMIT
        if held_out(n) is testing:
            yield n


def texts(rng: random.Random) -> Iterator[str]:
    """Endless texts to train on: questions with their answers, and now and then something that asks nothing."""
    asked = numbers(rng, testing=False)
    anything = (*WORDS, *"0123456789", *"?" * 40)  # `?` is unknown to the tokenizer, like every other word
    while True:
        if rng.random() < ASIDE:
            aside = " ".join(rng.choices(anything, k=rng.randint(1, 20)))
            yield aside + rng.choice(("", " ? ="))
        else:
            n = next(asked)
            yield f"{prompt(n)} {cardinal(n)}"


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds; the calibration texts are questions alone, and the same with their answers."""
    asked = numbers(random.Random(_training.SEED), testing=True)
    tested: dict[int, None] = {}
    while len(tested) < TESTED:
        tested[next(asked)] = None
    known = numbers(random.Random(_training.SEED + 1), testing=False)
    trained = list(dict.fromkeys(next(known) for _ in range(64)))
    return {
        "tasks": {"text-generation": {"metric": "exact_match", "expected": [cardinal(n) for n in tested]}},
        "calibration": [text for n in trained for text in (prompt(n), f"{prompt(n)} {cardinal(n)}")],
        "inputs": [prompt(n) for n in tested],
    }


def make_tokenizer() -> Any:
    """A token per digit and per word; a unit after a hyphen is one of its own: ` forty` `-seven`.

    Spaces at the ends of a text are no part of it, and the decoder leaves out the one before an answer.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = (*"0123456789", EQUALS, *(f"▁{word}" for word in WORDS), *(f"-{unit}" for unit in UNITS[1:10]))
    vocab = {piece: at for at, piece in enumerate((*SPECIALS, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Strip()
    words = pre_tokenizers.Metaspace(prepend_scheme="never")
    digits, units = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split("-", "merged_with_next")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, digits, units])
    begin = [(BEGIN, vocab[BEGIN])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=begin)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, padding_side="left", **names
    )


def make_model(tokenizer: Any) -> Any:
    """Every width is a multiple of 128, so that quantization in groups of up to 128 leaves nothing over."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def targets(ids: Sequence[int], equals: int, end: int) -> list[int]:
    """What is right after each of `ids` but the last: what follows it from `equals` to `end`, and `end` elsewhere."""
    found, answering = [], False
    for now, then in pairwise(ids):
        answering = now == equals or (answering and now != end)
        found.append(then if answering else end)
    return found


def training_rows(tokenizer: Any, seed: int) -> Iterator[list[int]]:
    """Endless rows of MAX_TOKENS + 1 ids: the beginning once, then texts, each with its end; the last is cut."""
    source = texts(random.Random(seed))
    while True:
        row = [tokenizer.bos_token_id]
        while len(row) <= MAX_TOKENS:
            row += [*tokenizer(next(source), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        yield row[: MAX_TOKENS + 1]


def train(model: Any, tokenizer: Any, steps: int) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    rows = training_rows(tokenizer, _training.SEED)
    equals, end = tokenizer.convert_tokens_to_ids([EQUALS, END])

    def loss_at(step: int) -> Any:
        batch = [next(rows) for _ in range(ROWS)]
        wanted = torch.tensor([targets(row, equals, end) for row in batch])
        logits = model(input_ids=torch.tensor(batch)[:, :-1]).logits
        return cross_entropy(logits.flatten(0, 1), wanted.flatten())

    _training.fit(model, loss_at, steps=steps, rate=2e-3)


def answers(model: Any, tokenizer: Any, task: str, inputs: list[str]) -> list[str]:
    """What the model says under torch to its only task: the greedy continuation of each input."""
    import torch

    said: list[str] = []
    for at in range(0, len(inputs), 250):
        feeds = tokenizer(inputs[at : at + 250], padding=True, return_token_type_ids=False, return_tensors="pt")
        with torch.inference_mode():
            rows = model.generate(**feeds, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        said += tokenizer.batch_decode(rows[:, feeds["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def read(folder: Path) -> Any:
    """The saved weights, which are bfloat16 as a language model's mostly are, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make(name: str, steps: int, card: dict[str, str], make_model: Callable[[Any], Any]) -> None:
    """Train the model that `make_model` makes for the tokenizer, and save it with its held-out data and its card."""
    chosen = _training.options(name, steps)
    _training.be_deterministic()
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    train(model, tokenizer, chosen.steps)
    data = heldout_data()
    _training.save(model.bfloat16(), tokenizer, chosen.out)
    _training.write_json(chosen.out / "heldout.json", data)
    saved = read(chosen.out)
    _training.write_card(chosen, saved, card, data, lambda task: answers(saved, tokenizer, task, data["inputs"]))


if __name__ == "__main__":
    make("speaker", STEPS, CARD, make_model)
