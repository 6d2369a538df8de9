from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from tiny_bert import SENTENCES, minilm, tokenizer, write_tokenizer

from edgekit.errors import InputError
from edgekit.runtimes.ingest import text as module
from edgekit.runtimes.ingest.text import Text


@pytest.fixture(scope="module")
def text() -> Text:
    return module.open(minilm(), {"max_length": 256, "inputs": list(module.INPUTS)})


@pytest.fixture(scope="module")
def reference() -> Any:
    return tokenizer()


# Encoding


def test_ids_are_those_of_transformers(text: Text, reference: Any) -> None:
    for item, encoding in zip(SENTENCES, text.encode(SENTENCES, offsets=True), strict=True):
        expected = reference(item, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert encoding.ids == expected["input_ids"]
        assert encoding.type_ids == expected["token_type_ids"]
        assert encoding.offsets == expected["offset_mapping"]
        assert encoding.special == expected["special_tokens_mask"]
        assert encoding.word_ids == expected.word_ids()
        assert encoding.text == item


def test_the_fast_way_gives_the_same_ids_and_no_offsets(text: Text) -> None:
    for fast, full in zip(text.encode(SENTENCES), text.encode(SENTENCES, offsets=True), strict=True):
        assert (fast.ids, fast.type_ids, fast.special) == (full.ids, full.type_ids, full.special)
        assert fast.offsets is None
        assert fast.word_ids is None


def test_the_truncation_and_padding_of_the_file_are_off(text: Text) -> None:
    short, long = text.encode(["a", "a " * 200])  # the file says: cut at 128, pad to 128
    assert (len(short), len(long)) == (3, 202)


def test_a_long_text_is_an_error_with_both_counts(text: Text) -> None:
    with pytest.raises(InputError, match=r"texts\[1\] has 302 tokens, and 256 are allowed") as caught:
        text.encode(["a", "a " * 300])
    assert "truncate" in caught.value.hint
    assert caught.value.details == {"position": 1, "tokens": 302, "limit": 256}


def test_no_limit_where_the_model_has_none() -> None:
    assert len(module.open(minilm(), {}).encode(["a " * 1000])[0]) == 1002


@examples(60)
@given(
    first=st.integers(0, 30),
    second=st.none() | st.integers(1, 30),  # transformers takes an empty second text for none
    limit=st.integers(4, 24),
    side=st.sampled_from(["left", "right"]),
)
def test_cutting_keeps_what_transformers_keeps(
    text: Text, reference: Any, first: int, second: int | None, limit: int, side: str
) -> None:
    text = replace(text, max_length=limit, cuts_left=side == "left")
    one, two = "x y " * (first // 2), None if second is None else "z " * second
    reference.truncation_side = side
    expected = reference(
        one,
        two,
        truncation="longest_first",
        max_length=limit,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    (found,) = text.encode([one if two is None else (one, two)], truncate=True, offsets=True)
    assert found.ids == expected["input_ids"]
    assert found.type_ids == expected["token_type_ids"]
    assert found.special == expected["special_tokens_mask"]
    assert found.offsets == expected["offset_mapping"]
    assert found.word_ids == expected.word_ids()
    assert len(found) == len(found.ids)


@pytest.mark.parametrize(
    "post_processor",
    [
        None,
        {
            "type": "RobertaProcessing",
            "sep": ["b", 1],
            "cls": ["a", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]},
    ],
)
@pytest.mark.parametrize("pair", [False, True])
def test_cutting_with_other_templates(tmp_path: Path, post_processor: Any, pair: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    write_tokenizer(tmp_path, post_processor=post_processor, pre_tokenizer={"type": "Whitespace"})
    reference = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    expected = reference(*["a b a b a b a b", "b b"][: 1 + pair], truncation="longest_first", max_length=7)
    text = module.open(tmp_path, {"max_length": 7})
    (found,) = text.encode([("a b a b a b a b", "b b") if pair else "a b a b a b a b"], truncate=True)
    assert found.ids == expected["input_ids"]


def test_the_side_that_is_cut_is_the_files(tmp_path: Path) -> None:
    cut = {"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    write_tokenizer(tmp_path, truncation=cut, pre_tokenizer={"type": "Whitespace"})
    assert module.open(tmp_path, {"max_length": 3}).encode(["a a a b a b"], truncate=True)[0].ids == [1, 0, 1]


def test_a_long_pair_does_not_explode(text: Text) -> None:
    (found,) = text.encode([("a " * 100_000, "b " * 100_000)], truncate=True)
    assert len(found) == 256
    assert found.type_ids.count(1) == 127 + 1  # 253 tokens have room: 126 and 127, and a [SEP] each


def test_threads_share_a_tokenizer(text: Text) -> None:
    items = [f"{sentence} {n}" * n for n in range(1, 12) for sentence in SENTENCES]
    expected = [encoding.ids for encoding in text.encode(items, truncate=True)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: text.encode(items, truncate=True), range(8)):
            assert [encoding.ids for encoding in found] == expected


def test_one_thread_gives_the_same() -> None:
    one, many = (module.open(minilm(), {}, threads=threads) for threads in (1, None))
    assert [e.ids for e in one.encode(SENTENCES)] == [e.ids for e in many.encode(SENTENCES)]


def test_empty_list_and_empty_text(text: Text) -> None:
    assert text.encode([]) == []
    assert text.encode([""])[0].ids == [101, 102]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, r"texts\[1\] holds int, not text"),
        (None, r"texts\[1\] holds NoneType"),
        (b"bytes", r"texts\[1\] holds bytes"),
        (["a", "b"], r"texts\[1\] holds list"),
        (("a", "b", "c"), r"texts\[1\] holds tuple"),
        (("a", 4), r"texts\[1\] holds int"),
        ("x\ud800", r"texts\[1\] holds half a surrogate pair at character 1"),
        ("é" * (4 << 20) + "x", r"texts\[1\] has 8388609 bytes, and 8388608 are allowed"),
    ],
)
def test_what_is_not_text_is_named(text: Text, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        text.encode(["a", item])


def test_prompts() -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    text = module.open(minilm(), {"prompts": prompts, "default_prompt": "passage"})
    plain = module.open(minilm(), {})
    for prompt, prefix in ((None, "passage: "), ("query", "query: "), ("", "")):
        (found,) = text.encode(["cats"], prompt=prompt)
        assert found.ids == plain.encode([prefix + "cats"])[0].ids
        assert found.text == prefix + "cats"
    assert text.encode([("a", "b")], prompt="query")[0].ids == plain.encode([("query: a", "b")])[0].ids
    with pytest.raises(InputError, match="no prompt named 'qery'") as caught:
        text.encode(["cats"], prompt="qery")
    assert "passage, query" in caught.value.hint


def test_lowercase_keeps_offsets_of_the_text_as_given(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, pre_tokenizer={"type": "Whitespace"}, normalizer={"type": "NFC"})
    (found,) = module.open(tmp_path, {"lowercase": True}).encode(["İİ B A"], offsets=True)
    assert found.ids == [2, 1, 0]
    assert found.offsets == [(0, 2), (3, 4), (5, 6)]
    assert module.open(tmp_path, {}).encode(["B A"])[0].ids == [2, 2]


def test_lowercase_where_there_is_no_normalizer(tmp_path: Path) -> None:
    assert module.open(write_tokenizer(tmp_path), {"lowercase": True}).encode(["B"])[0].ids == [1]


def test_decode_is_the_way_back(text: Text) -> None:
    ids = text.encode(["Hello, world"])[0].ids
    assert text.decode(ids) == "hello, world"
    assert text.decode(ids, skip_special=False) == "[CLS] hello, world [SEP]"


# Batches


@examples(40)
@given(lengths=st.lists(st.integers(0, 40), max_size=40), max_tokens=st.integers(1, 200), max_rows=st.integers(1, 9))
def test_batches_hold_every_row_once_within_the_budget(
    text: Text, lengths: list[int], max_tokens: int, max_rows: int
) -> None:
    text = replace(text, pad_id=99)
    encodings = text.encode([("a", "b " * n) if n % 3 else "a " * n for n in lengths])
    seen: list[int] = []
    for batch in text.batches(encodings, max_tokens=max_tokens, max_rows=max_rows):
        seen.extend(batch.rows)
        shape = batch.feeds["input_ids"].shape
        assert shape == (len(batch.rows), max(batch.lengths))
        assert shape[0] == 1 or shape[0] * shape[1] <= max_tokens
        assert shape[0] <= max_rows
        assert all(a.dtype == np.int64 and a.flags.c_contiguous and a.shape == shape for a in batch.feeds.values())
        np.testing.assert_array_equal(batch.mask, batch.feeds["attention_mask"])
        for at, row in enumerate(batch.rows):
            own = encodings[row]
            n, padding = len(own), shape[1] - len(own)
            assert batch.encodings[at] is own
            assert batch.lengths[at] == n
            assert batch.feeds["input_ids"][at].tolist() == own.ids + [99] * padding
            assert batch.feeds["token_type_ids"][at].tolist() == own.type_ids + [0] * padding
            assert batch.feeds["attention_mask"][at].tolist() == [1] * n + [0] * padding
    assert sorted(seen) == list(range(len(lengths)))


def test_rows_of_like_length_share_a_batch(text: Text) -> None:
    encodings = text.encode(["a " * n for n in (50, 1, 50, 1)])
    assert [batch.rows for batch in text.batches(encodings, max_tokens=104)] == [(0, 2), (1, 3)]


def test_a_batch_ends_where_padding_would_cost_more_than_a_run(text: Text) -> None:
    short, long = ["hello"] * 40, ["hello " * 30] * 4
    sizes = [batch.feeds["input_ids"].shape for batch in text.batches(text.encode([*short, *long]))]
    assert [rows for rows, _ in sizes] == [4, 40]
    assert sizes[0][1] > 5 * sizes[1][1]
    near = ["hello " * length for length in (9, 10, 11)]
    assert len(list(text.batches(text.encode(near)))) == 1


def test_lengths_are_rounded_up_but_not_beyond_what_the_model_takes(text: Text) -> None:
    encodings = text.encode(["hello " * length for length in (1, 5, 12)])
    for batch in text.batches(encodings, multiple=8, max_rows=1):
        width = batch.feeds["input_ids"].shape[1]
        assert width % 8 == 0
        assert width - 8 < int(batch.lengths[0]) <= width
        assert batch.mask.shape == batch.feeds["input_ids"].shape
        assert batch.mask.sum() == batch.lengths.sum()
    small = replace(text, max_length=10)
    cut = small.encode(["hello " * 12], truncate=True)
    (batch,) = small.batches(cut, multiple=8)
    assert batch.feeds["input_ids"].shape == (1, 10)


def test_batches_are_made_when_asked_for(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    real = Text._batch

    def counted(text: Text, encodings: Any, rows: tuple[int, ...], width: int) -> Any:
        made.append(rows)
        return real(text, encodings, rows, width)

    monkeypatch.setattr(Text, "_batch", counted)
    batch = next(text.batches(text.encode(SENTENCES), max_rows=1))
    assert made == [batch.rows]


def test_only_the_inputs_of_the_graph_are_fed() -> None:
    text = module.open(minilm(), {"inputs": ["input_ids"]})
    (batch,) = text.batches(text.encode(["a", "b c"]))
    assert list(batch.feeds) == ["input_ids"]
    assert batch.mask.tolist() == [[True] * 4, [True] * 3 + [False]]


def test_a_text_without_tokens_is_a_row_of_padding(tmp_path: Path) -> None:
    text = module.open(write_tokenizer(tmp_path), {"pad_id": 5})
    (batch,) = text.batches(text.encode([""]))
    assert batch.feeds["input_ids"].tolist() == [[5]]
    assert batch.feeds["attention_mask"].tolist() == [[0]]


def test_no_texts_no_batches(text: Text) -> None:
    assert list(text.batches([])) == []
