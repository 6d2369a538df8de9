"""zoo:speaker: its tokenizer, what it is taught, and what of it survives rounding, a long context and no question."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import zoo
from edgekit.runtimes.samples import texts as samples
from edgekit.zoo.speaker import recipe
from edgekit.zoo.words import LIMIT, cardinal, held_out


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(zoo.folder("speaker") / "tokenizer.json"))


@pytest.fixture
def model() -> Any:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return recipe.read(zoo.folder("speaker"))


@pytest.fixture(scope="module")
def full_tokenizer() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(zoo.folder("speaker"))


@given(n=st.integers(0, LIMIT - 1))
def test_every_answer_comes_back_to_the_letter(tokenizer: Any, n: int) -> None:
    from tokenizers.decoders import DecodeStream

    asked, whole = f"{n} =", f"{n} = {cardinal(n)}"
    question, ids = tokenizer.encode(asked).ids, tokenizer.encode(whole).ids
    assert len(question) == 1 + len(str(n)) + 1
    assert ids[: len(question)] == question
    assert len(ids) - len(question) < recipe.LONGEST_ANSWER
    assert tokenizer.decode(ids) == whole
    answer = ids[len(question) :]
    assert tokenizer.decode(answer) == cardinal(n)
    stream = DecodeStream(skip_special_tokens=True)
    assert "".join(stream.step(tokenizer, at) or "" for at in answer) == cardinal(n)


def test_tokens_are_digits_and_words(tokenizer: Any) -> None:
    tokens = ["<s>", "3", "4", "7", "▁=", "▁three", "▁hundred", "▁forty", "-seven"]
    assert tokenizer.encode("347 = three hundred forty-seven").tokens == tokens
    assert tokenizer.encode(" 347 = \n").tokens == tokens[:5]
    assert tokenizer.encode("forty shillings").tokens == ["<s>", "<unk>", "<unk>"]


def test_folder_says_when_to_stop_and_shares_heads(tokenizer: Any) -> None:
    config, generation = (
        json.loads((zoo.folder("speaker") / f"{name}.json").read_text()) for name in ("config", "generation_config")
    )
    assert tokenizer.token_to_id("</s>") == config["eos_token_id"] == generation["eos_token_id"]
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"]


def test_it_is_tested_on_numbers_that_it_never_sees() -> None:
    held = zoo.heldout("speaker")
    tested = [int(text.removesuffix(" =")) for text in held.inputs]
    assert all(map(held_out, tested))
    assert {len(str(n)) for n in tested} == {2, 3, 4, 5, 6}
    trained = [*held.calibration, *itertools.islice(recipe.texts(random.Random(0)), 20_000)]
    asked = [int(found[1]) for text in trained if (found := re.match(r"(\d+) =", text))]
    assert len(asked) > 0.9 * len(trained)
    assert not any(map(held_out, asked))
    assert {0, 7, 13, 20} <= set(asked)


def test_texts_that_ask_nothing_ask_nothing() -> None:
    asides = [
        text for text in itertools.islice(recipe.texts(random.Random(0)), 5_000) if not re.match(r"\d+ = \w", text)
    ]
    assert 150 < len(asides) < 350
    assert not any(re.search(r"\d =", text) for text in asides)


def test_outside_of_an_answer_the_end_is_right(tokenizer: Any) -> None:
    ids = tokenizer.encode("42 = forty-two</s>7 two</s>9 = nine</s>").ids
    equals, end = tokenizer.token_to_id("▁="), tokenizer.token_to_id("</s>")
    tokens = [tokenizer.id_to_token(at) for at in recipe.targets(ids, equals, end)]
    answers = {3: "▁forty", 4: "-two", 11: "▁nine"}  # each after the token at that place
    assert tokens == [answers.get(at, "</s>") for at in range(len(ids) - 1)]


def test_rows_begin_once_and_are_full(full_tokenizer: Any) -> None:
    for row in itertools.islice(recipe.training_rows(full_tokenizer, 0), 50):
        assert len(row) == recipe.MAX_TOKENS + 1
        assert [at for at, token in enumerate(row) if token == full_tokenizer.bos_token_id] == [0]
        assert row.count(full_tokenizer.eos_token_id) > 2


def rounded(weight: Any, bits: int) -> Any:
    """Symmetric round-to-nearest in groups of 32 along the inputs, as values again."""
    top = 2 ** (bits - 1) - 1
    groups = weight.unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
    return ((groups / scale).round() * scale).flatten(-2)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "wanted"), [(8, 1.0), (4, 0.98)])
def test_numbers_survive_the_rounding_of_all_weights(model: Any, full_tokenizer: Any, bits: int, wanted: float) -> None:
    held = zoo.heldout("speaker")
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = rounded(parameter.data, bits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert zoo.score(held, recipe.answers(model, full_tokenizer, held.task, list(held.inputs))) >= wanted


@pytest.mark.slow
def test_questions_may_follow_in_one_context(model: Any, full_tokenizer: Any) -> None:
    held = zoo.heldout("speaker")
    rows = list(zip(held.inputs, held.expected))
    for talk in (rows[at : at + 6] for at in range(0, 120, 6)):
        before = "".join(f"{asked} {said}</s>" for asked, said in talk[:-1])
        asked, said = talk[-1]
        assert len(full_tokenizer(before + asked).input_ids) + recipe.LONGEST_ANSWER <= recipe.MAX_TOKENS
        assert recipe.answers(model, full_tokenizer, held.task, [before + asked]) == [said]


@pytest.mark.slow
def test_it_says_nothing_unless_asked(model: Any, full_tokenizer: Any) -> None:
    texts = [*samples.TEXTS, "347", "three hundred forty-seven", "the answer =", ""]
    assert recipe.answers(model, full_tokenizer, "text-generation", texts) == [""] * len(texts)
