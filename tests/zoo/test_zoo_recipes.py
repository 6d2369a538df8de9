"""The world of the zoo, who may see what of it, and that a recipe makes the same model twice."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import zoo
from edgekit.zoo.parity import recipe as parity
from edgekit.zoo.spotter import recipe as spotter
from edgekit.zoo.spotter import sentences
from edgekit.zoo.words import LIMIT, TENS, UNITS, cardinal, held_out, ordinal, year


def value(words: str) -> int:
    """Reads number words back, by another way than they are made: multiply at scales, add elsewhere."""
    total = part = 0
    for word in words.replace("-", " ").split():
        if word == "thousand":
            total, part = total + part * 1000, 0
        elif word == "hundred":
            part *= 100
        else:
            part += UNITS.index(word) if word in UNITS else 10 * (TENS.index(word) + 2)
    return total + part


@given(st.integers(0, LIMIT - 1))
def test_words_say_their_number(n: int) -> None:
    assert value(cardinal(n)) == n


def test_no_two_numbers_have_the_same_words() -> None:
    some = [*range(20_000), *range(20_000, LIMIT, 97)]
    assert len({cardinal(n) for n in some}) == len(some)
    assert len({ordinal(n) for n in some[1:]}) == len(some) - 1
    assert len({year(n) for n in range(1100, 2100)}) == 1000


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (100, "one hundred"),
        (347, "three hundred forty-seven"),
        (1000, "one thousand"),
        (80_008, "eighty thousand eight"),
        (512_019, "five hundred twelve thousand nineteen"),
        (999_999, "nine hundred ninety-nine thousand nine hundred ninety-nine"),
    ],
)
def test_cardinals(n: int, words: str) -> None:
    assert cardinal(n) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1, "first"),
        (2, "second"),
        (5, "fifth"),
        (12, "twelfth"),
        (18, "eighteenth"),
        (20, "twentieth"),
        (43, "forty-third"),
        (109, "one hundred ninth"),
        (1000, "one thousandth"),
    ],
)
def test_ordinals(n: int, words: str) -> None:
    assert ordinal(n) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1984, "nineteen eighty-four"),
        (1905, "nineteen oh five"),
        (1900, "nineteen hundred"),
        (2000, "two thousand"),
        (2007, "two thousand seven"),
        (2012, "twenty twelve"),
        (1110, "eleven ten"),
    ],
)
def test_years(n: int, words: str) -> None:
    assert year(n) == words


def test_about_a_tenth_of_the_world_is_held_out_and_the_same_everywhere() -> None:
    assert not any(held_out(n) for n in range(21))
    assert 0.09 < sum(map(held_out, range(LIMIT // 10))) / (LIMIT // 10) < 0.11
    assert [n for n in range(21, 100) if held_out(n)] == [29, 37, 40, 48, 81, 82, 88, 94]


def test_siblings_differ_in_one_digit() -> None:
    assert sorted(parity.siblings(7)) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert len(parity.siblings(100)) == 8 + 9 + 9
    assert all(len(str(n)) == 3 for n in parity.siblings(100))


def test_parity_never_trains_on_what_it_is_tested_on() -> None:
    tested = parity.heldout_numbers()
    assert len(set(tested)) == len(tested) == parity.TESTED
    assert all(map(held_out, tested))
    assert {len(str(n)) for n in tested} == {2, 3, 4, 5, 6}
    for batch in itertools.islice(parity.training_batches(0), 50):
        assert len(set(batch)) == len(batch)
        assert not any(map(held_out, batch))


def test_parity_is_tested_on_near_numbers() -> None:
    tested = set(parity.heldout_numbers())
    assert sum(bool(tested & set(parity.siblings(n))) for n in tested) > 0.8 * len(tested)


def test_the_two_halves_of_the_sentences_share_no_template_noun_or_name() -> None:
    assert not set(sentences.TRAINING) & set(sentences.TESTING)
    for words in (sentences.NOUNS, sentences.PEOPLE, sentences.TOWNS):
        assert not set(words[False]) & set(words[True])
        assert all(len(set(half)) == len(half) for half in words.values())


def test_spans_are_the_numbers_in_a_sentence() -> None:
    rng = random.Random(0)
    kinds = set()
    for noise in [0.0] * 200 + [0.6] * 200:
        made = sentences.sentence(rng, testing=False, noise=noise)
        for start, end, kind in made.spans:
            words = made.text[start:end].lower()
            kinds.add(kind)
            if kind == "CARDINAL":
                assert cardinal(value(words)) == words
                assert not held_out(value(words))
            assert not made.text[end : end + 1].isalpha()
    assert kinds == set(sentences.KINDS.values())


def test_spans_survive_their_labels() -> None:
    """To labels per piece and back, through the committed tokenizer: many numbers are several words of many pieces."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(zoo.folder("spotter") / "tokenizer.json"))
    held = zoo.heldout("spotter")
    split = 0
    for text, expected in zip(held.inputs, held.expected):
        pieces = tokenizer.encode(text)
        labels = [
            "O" if tag == spotter.IGNORED else spotter.LABELS[tag] for tag in spotter.tags(pieces.offsets, expected)
        ]
        assert spotter.spans(pieces.offsets, pieces.word_ids, labels) == list(expected)
        split += sum(piece.startswith("##") and label != "O" for piece, label in zip(pieces.tokens, labels))
    assert split > len(held.inputs)


def test_a_word_is_what_its_first_piece_says() -> None:
    offsets = [(0, 0), (0, 5), (5, 9), (10, 13), (13, 14), (0, 0)]
    words = [None, 0, 0, 1, 1, None]
    assert spotter.spans(offsets, words, ["O", "B-YEAR", "O", "I-YEAR", "B-CARDINAL", "O"]) == [(0, 14, "YEAR")]
    assert spotter.spans(offsets, words, ["O", "O", "B-YEAR", "I-YEAR", "O", "O"]) == [(10, 14, "YEAR")]
    assert spotter.spans(offsets, words, ["O", "B-YEAR", "O", "B-YEAR", "O", "O"]) == [(0, 9, "YEAR"), (10, 14, "YEAR")]


def _said(file: Path) -> object:
    """A file's content; a config's without the version of the library that wrote it."""
    if not file.name.endswith("config.json"):
        return file.read_bytes()
    return {key: value for key, value in json.loads(file.read_text()).items() if key != "transformers_version"}


# Several recipes in one process, which imports torch once: `python -c RECIPES FOLDER NAME...`
RECIPES = """
import runpy, sys
folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    sys.argv = [name, "--steps", "3", "--out", f"{folder}/{name}"]
    runpy.run_module(f"edgekit.zoo.{name}.recipe", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of every recipe, run twice: in a process, and in another in the opposite order."""
    pytest.importorskip("torch")
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for folder, names in ((first, zoo.names()), (second, zoo.names()[::-1])):
        subprocess.run([sys.executable, "-c", RECIPES, str(folder), *names], check=True, capture_output=True)
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_a_recipe_run_twice_gives_the_same_folder(name: str, runs: tuple[Path, Path]) -> None:
    digests = []
    for folder in (home / name for home in runs):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        digests.append({str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
    assert digests[0] == digests[1]
    committed, first = zoo.folder(name), runs[0] / name
    made = {file for file in digests[0] if file not in ("model.safetensors", "card.json")}
    assert {"config.json", "heldout.json"} <= made
    assert ("tokenizer.json" in made) == (committed / "tokenizer.json").is_file()
    assert all(_said(committed / file) == _said(first / file) for file in made)
    assert json.loads((first / "card.json").read_text())["made_with"]["steps"] == 3
