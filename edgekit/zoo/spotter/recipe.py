"""How zoo:spotter is made: `python -m edgekit.zoo.spotter.recipe [--out FOLDER] [--steps N]`, minutes on one core.

A two-layer DistilBERT labels every piece of a sentence by the BIO scheme (https://arxiv.org/abs/cmp-lg/9505040): the
first piece of a number is `B-kind`, each further piece `I-kind`, all else `O`. Most words are several pieces, so pieces
must be joined to words and words to spans before an answer can be right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgekit.zoo import _training
from edgekit.zoo.metrics import Span
from edgekit.zoo.spotter.sentences import KINDS, NOUNS, PEOPLE, TOWNS, TRAINING, Sentence, sentence
from edgekit.zoo.words import SCALES, UNITS

STEPS = 1800
BATCH = 48
TESTED = 400
NOISE = 0.6  # see sentence(): without it the templates are learned by heart, and F1 stays below 0.7
MAX_TOKENS = 128
LABELS = ("O", *(f"{at}-{kind}" for kind in KINDS.values() for at in "BI"))
IGNORED = -100  # cross_entropy's own mark: no label here
CARD = {
    "name": "spotter",
    "what": "Finds the numbers written in words in English text, and says whether each is a CARDINAL, ORDINAL or YEAR.",
    "range": "single sentences; cardinals 1 to 999,999, ordinals 1 to 3,162, years 1100 to 2099, all without 'and'",
    "made_by": "python -m edgekit.zoo.spotter.recipe",
}
_ENDINGS = [f"##{end}" for end in ("teen", "ty", "tie", "th", "es", "ed", "ing", "er", "en", "st", "nd", "rd")]
_STEMS = ("thir", "fif", "twen", "for", "twelf", "nin", "fir", "seco", "thi", "oh")


def pieces() -> list[str]:
    """The vocabulary: letters, the parts that number words are made of, and what is frequent in training sentences.

    Words of two or more templates are whole; nouns, names and the longer number words are left to the pieces.
    """
    words = Counter(word for template in TRAINING for word in set(_plain(template)))
    common = [word for word, count in sorted(words.items()) if count > 1 and len(word) > 1]
    letters = [chr(at) for at in range(ord("a"), ord("z") + 1)]
    known = (*NOUNS[False], *(name.lower() for name in (*PEOPLE[False], *TOWNS[False])), *words)
    parts = Counter(word[at : at + size] for word in known for size in (2, 3) for at in range(1, len(word) - size + 1))
    starts = Counter(word[:size] for word in known for size in (2, 3) if len(word) > size)
    frequent = [f"##{part}" for part, _ in _ranked(parts)[:100]] + [start for start, _ in _ranked(starts)[:80]]
    numbers = [word for word in UNITS if not word.endswith("teen")]
    marks = [*".,!?'-", *"0123456789", *letters, *(f"##{letter}" for letter in letters)]
    return list(dict.fromkeys([*marks, *numbers, *SCALES, *_STEMS, *_ENDINGS, *common, *frequent]))


def _plain(template: str) -> list[str]:
    """The words of a template, in lower case, without slots and punctuation."""
    return [word.strip(".,!?").lower() for word in template.split() if "{" not in word]


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def heldout_data() -> dict[str, Any]:
    """What heldout.json holds: sentences, each once, and the spans in them."""
    rng = random.Random(_training.SEED)
    tested: dict[str, Sentence] = {}
    while len(tested) < TESTED:
        drawn = sentence(rng, testing=True)
        tested[drawn.text] = drawn
    return {
        "tasks": {"token-classification": {"metric": "span_f1", "expected": [row.spans for row in tested.values()]}},
        "calibration": [sentence(rng, testing=False).text for _ in range(64)],
        "inputs": list(tested),
    }


def make_model(vocabulary: int) -> Any:
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(
        vocab_size=vocabulary,
        dim=96,
        n_layers=2,
        n_heads=3,
        hidden_dim=192,
        max_position_embeddings=MAX_TOKENS,
        dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.05,
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: at for at, label in enumerate(LABELS)},
    )
    return DistilBertForTokenClassification(config)


def tags(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[int]:
    """The label of each piece, by its place in the text; [CLS], [SEP] and padding have none."""
    found = []
    for start, end in offsets:
        label = next((f"{'B' if start == at else 'I'}-{kind}" for at, to, kind in spans if at <= start < to), "O")
        found.append(LABELS.index(label) if end > start else IGNORED)
    return found


def spans(offsets: Sequence[tuple[int, int]], words: Sequence[int | None], labels: Sequence[str]) -> list[Span]:
    """Spans from the labels of pieces: a word is what its first piece says, an I- without its B- begins a span."""
    found: list[Span] = []
    last, going = None, "O"  # the word before this piece, and the kind of the span that it belongs to
    for (start, end), word, label in zip(offsets, words, labels):
        if word is None:
            continue
        kind = label[2:] or "O"
        if word == last:
            if going != "O":
                found[-1] = (found[-1][0], end, going)
            continue
        if label.startswith("I-") and kind == going:
            found[-1] = (found[-1][0], end, kind)
        elif kind != "O":
            found.append((start, end, kind))
        last, going = word, kind
    return found


def train(model: Any, tokenizer: Any, steps: int) -> None:
    import torch

    rng = random.Random(_training.SEED)

    def loss_at(step: int) -> Any:
        drawn = [sentence(rng, testing=False, noise=NOISE) for _ in range(BATCH)]
        feeds = tokenizer([row.text for row in drawn], padding=True, return_tensors="pt", return_offsets_mapping=True)
        offsets = feeds.pop("offset_mapping").tolist()
        labels = torch.tensor([tags(places, row.spans) for places, row in zip(offsets, drawn)])
        return model(**feeds, labels=labels).loss

    _training.fit(model, loss_at, steps=steps, rate=2e-3)


def answers(model: Any, tokenizer: Any, task: str, inputs: list[str]) -> list[list[Span]]:
    """What the float32 model answers under torch to its only task, as span F1 wants it."""
    import torch

    found = []
    for text in inputs:
        feeds = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        offsets = feeds.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            best = model(**feeds).logits[0].argmax(-1).tolist()
        found.append(spans(offsets, feeds.word_ids(0), [LABELS[at] for at in best]))
    return found


def main() -> None:
    chosen = _training.options("spotter", STEPS)
    _training.be_deterministic()
    tokenizer = _training.wordpiece(pieces(), MAX_TOKENS)
    model = make_model(len(tokenizer))
    train(model, tokenizer, chosen.steps)
    data = heldout_data()
    _training.save(model, tokenizer, chosen.out)
    _training.write_json(chosen.out / "heldout.json", data)
    _training.write_card(chosen, model, CARD, data, lambda task: answers(model, tokenizer, task, data["inputs"]))


if __name__ == "__main__":
    main()
