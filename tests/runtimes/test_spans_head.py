from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from tiny_bert import SENTENCES, TorchSession, bert_config, minilm, numbers, tokenizer

from edgekit.errors import BundleError, InputError
from edgekit.runtimes.heads import spans as head
from edgekit.runtimes.heads.spans import Span
from edgekit.runtimes.ingest import text as ingest
from edgekit.runtimes.ingest.text import Text

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
PLAIN = ["NOUN", "VERB", "O"]
MIXED = ["[PAD]", "O", "B-PER", "I-PER", "LABEL_4", "X"]  # as fine-tuned BERTs and gaps in id2label have them
SURE: Any = pytest.approx(1)


@pytest.fixture(scope="module")
def text() -> Text:
    return ingest.open(minilm(), {"inputs": list(ingest.INPUTS)})


@pytest.fixture(scope="module", params=[BIO, PLAIN, MIXED], ids=["bio", "plain", "mixed"])
def tagger(request: pytest.FixtureRequest) -> Any:
    """transformers' pipeline on a tiny BERT with random weights that likes every label."""
    import torch
    from transformers import BertForTokenClassification, TokenClassificationPipeline

    torch.manual_seed(3)
    model = BertForTokenClassification(bert_config(id2label=dict(enumerate(request.param))))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    return TokenClassificationPipeline(model=model.eval(), tokenizer=tokenizer(), aggregation_strategy="first")


def tag(text: Text, session: Any, labels: list[str], items: list[str], offsets: bool = True) -> list[list[Span]]:
    given = head.open(Path(), {"output": "logits", "labels": labels})
    encodings = text.encode(items, offsets=offsets)
    return head.answers(numbers(head, session, text, encodings, given), encodings, given)


def say(text: Text, labels: list[str], item: str, chosen: list[str], **options: Any) -> list[Span]:
    """The spans of a text whose pieces got these labels, each with a probability of about one."""
    (encoding,) = text.encode([item], **{"offsets": True, **options})
    logits = 50 * np.eye(len(labels), dtype=np.float32)[[labels.index(label) for label in chosen]]
    ((*found,),) = head.answers([logits], [encoding], {"labels": labels})
    return found


def short(spans: list[Span]) -> list[tuple[str, str]]:
    return [(span.label, span.text) for span in spans]


def agree(ours: list[Span], theirs: list[dict[str, Any]], item: str) -> None:
    assert [(a.label, a.start, a.end) for a in ours] == [(b["entity_group"], b["start"], b["end"]) for b in theirs]
    assert [a.text for a in ours] == [item[b["start"] : b["end"]] for b in theirs]
    np.testing.assert_allclose([a.score for a in ours], [b["score"] for b in theirs], atol=2e-6)


def test_spans_are_those_of_transformers(text: Text, tagger: Any) -> None:
    items = [sentence for sentence in SENTENCES if sentence]  # the pipeline fails on an empty text
    labels = list(tagger.model.config.id2label.values())
    found = tag(text, TorchSession(tagger.model, "logits"), labels, items)
    for item, ours, theirs in zip(items, found, tagger(items), strict=True):
        agree(ours, theirs, item)
    assert sum(map(len, found)) > 10


@examples(40)
@given(item=st.text("ab cdé,.x1-\u4e2d", min_size=1).filter(lambda item: any(map(str.isalnum, item))))
def test_spans_of_any_text_are_those_of_transformers(text: Text, tagger: Any, item: str) -> None:
    labels = list(tagger.model.config.id2label.values())
    agree(tag(text, TorchSession(tagger.model, "logits"), labels, [item])[0], tagger(item), item)


def test_no_text_no_spans(text: Text, tagger: Any) -> None:
    session = TorchSession(tagger.model, "logits")
    assert tag(text, session, list(tagger.model.config.id2label.values()), ["", "  "]) == [[], []]


def test_a_word_has_the_label_of_its_first_piece(text: Text) -> None:
    item = "Unsplittable Berlin"  # un ##sp ##lit ##table berlin
    found = say(text, BIO, item, ["B-PER", "I-LOC", "O", "B-LOC", "B-LOC"])
    assert found == [
        Span("PER", SURE, 0, 12, "Unsplittable"),
        Span("LOC", SURE, 13, 19, "Berlin"),
    ]


def test_bio(text: Text) -> None:
    chosen = ["I-PER", "I-PER", "B-PER", "I-LOC", "O", "I-LOC"]
    assert short(say(text, BIO, "a b c d e f", chosen)) == [("PER", "a b"), ("PER", "c"), ("LOC", "d"), ("LOC", "f")]


@pytest.mark.parametrize(("single", "end"), ["SE", "UL"])
def test_bioes_and_bilou(text: Text, single: str, end: str) -> None:
    labels = ["O", *(f"{mark}-{name}" for mark in ("B", "I", end, single) for name in ("PER", "LOC"))]
    chosen = ["B-PER", "I-PER", f"{end}-PER", "I-PER", f"{single}-PER", f"{single}-PER", "B-LOC", f"{end}-LOC"]
    assert short(say(text, labels, "a b c d e f g h", chosen)) == [
        ("PER", "a b c"),
        ("PER", "d"),
        ("PER", "e"),
        ("PER", "f"),
        ("LOC", "g h"),
    ]


def test_plain_labels_keep_their_whole_name(text: Text) -> None:
    labels = ["O", "E-mail", "URL"]
    assert short(say(text, labels, "a b c d", ["E-mail", "E-mail", "URL", "O"])) == [("E-mail", "a b"), ("URL", "c")]


@pytest.mark.parametrize("plain", ["X", "[CLS]", "[SEP]", "[PAD]", "PAD", "MISC", "LABEL_3"])
def test_one_plain_label_leaves_the_prefixes_of_the_others(text: Text, plain: str) -> None:
    chosen = ["B-PER", "I-PER", plain, plain, "B-LOC", "I-LOC"]
    assert short(say(text, [*BIO, plain], "a b c d e f", chosen)) == [("PER", "a b"), (plain, "c d"), ("LOC", "e f")]


def test_a_plain_label_that_looks_marked_keeps_its_name_beside_marked_ones(text: Text) -> None:
    labels = ["O", "B-LOC", "I-LOC", "S-LOC", "S-Bahn", "X"]
    chosen = ["S-Bahn", "S-Bahn", "S-LOC", "S-LOC"]
    assert short(say(text, labels, "a b c d", chosen)) == [("S-Bahn", "a b"), ("LOC", "c"), ("LOC", "d")]


def test_scores_are_the_mean_over_words(text: Text) -> None:
    (encoding,) = text.encode(["a b"], offsets=True)
    chances = np.array([[0.1, 0.9, 0], [0.3, 0, 0.7]], np.float32)
    labels = {"labels": ["O", "B-X", "I-X"]}
    ((found,),) = head.answers([np.log(chances + 1e-12)], [encoding], labels)
    assert (found.label, found.start, found.end, found.text) == ("X", 0, 3, "a b")
    assert found.score == pytest.approx(0.8)


def test_without_offsets_every_piece_is_a_word(text: Text) -> None:
    found = say(text, BIO, "Unsplittable Berlin", ["B-PER", "I-PER", "I-PER", "I-PER", "B-LOC"], offsets=False)
    assert found == [
        Span("PER", SURE, None, None, "unsplittable"),
        Span("LOC", SURE, None, None, "berlin"),
    ]


def bpe(pre_tokenizer: Any, normalizer: Any = None, merged: bool = True) -> Text:
    """A tokenizer with a piece a letter; `merged`: a space is one piece with the letter behind it, as is usual."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted({*pre_tokenizers.ByteLevel.alphabet(), "\u2581"})
    merges = [(space, letter) for space in "\u0120\u2581" for letter in "abcdefghijklmnopqrstuvwxyz"] if merged else []
    pieces = letters + ["".join(merge) for merge in merges]
    made = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, merges))
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        made.normalizer = normalizer
    return Text(made)


def byte_level() -> Text:
    """As RoBERTa's: bytes, and offsets without the space."""
    from tokenizers import pre_tokenizers, processors

    made = bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def metaspace() -> Text:
    """As XLM-R's: offsets with the space."""
    from tokenizers import pre_tokenizers

    return bpe(pre_tokenizers.Metaspace(prepend_scheme="never"))


def without_pre_tokenizer() -> Text:
    """As Gemma's: the whole text is one word."""
    from tokenizers import normalizers

    return bpe(None, normalizers.Replace(" ", "\u2581"))


@pytest.mark.parametrize("make", [byte_level, metaspace, without_pre_tokenizer])
def test_words_of_other_tokenizers(make: Any) -> None:
    chosen = ["O", "B-PER", "B-LOC", "B-PER", "O", "I-PER"]  # i n _r o m e
    assert say(make(), BIO, "in rome", chosen) == [Span("LOC", SURE, 3, 7, "rome")]


@pytest.mark.parametrize("space", ["O", "B-LOC"])
def test_a_piece_for_the_space_alone(space: str) -> None:
    from tokenizers import pre_tokenizers

    text = bpe(pre_tokenizers.Metaspace(prepend_scheme="never"), merged=False)
    chosen = ["O", "O", space, "I-LOC", "O", "O", "O"]  # i n _ r o m e
    assert say(text, BIO, "in rome", chosen) == [Span("LOC", SURE, 3, 7, "rome")]
    assert say(text, BIO, "in rome", ["O", "O", "B-LOC", "O", "O", "O", "O"]) == []


def test_punctuation_stays_out_where_the_tokenizer_parts_it() -> None:
    found = say(byte_level(), BIO, "rome, a", ["B-LOC", "O", "O", "O", "O", "O", "O"])
    assert short(found) == [("LOC", "rome")]


def test_words_by_bytes_are_those_of_transformers() -> None:
    """RoBERTa's kind of tokenizer, on a text in which its own words and the pipeline's guess are the same."""
    import torch
    from transformers import BertForTokenClassification, PreTrainedTokenizerFast, TokenClassificationPipeline

    text, item = byte_level(), "rome was not built in one day"
    torch.manual_seed(5)
    model = BertForTokenClassification(bert_config(id2label=dict(enumerate(BIO))))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=text.tokenizer)
    pipeline = TokenClassificationPipeline(model=model.eval(), tokenizer=wrapped, aggregation_strategy="first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Tokenizer does not support real words"
        reference = pipeline(item)
    assert len(reference) > 2
    agree(tag(text, TorchSession(model, "logits"), BIO, [item])[0], reference, item)


def test_a_pair_is_refused(text: Text) -> None:
    with pytest.raises(InputError, match="this is a pair"):
        head.answers([np.zeros((2, 5), np.float32)], text.encode([("a", "b")], offsets=True), {"labels": BIO})


def test_a_graph_with_other_labels_is_refused(text: Text) -> None:
    (batch,) = text.batches(text.encode(["a"]))
    with pytest.raises(BundleError, match="gives 7 scores, and the bundle names 5"):
        head.numbers({"logits": np.zeros((1, 3, 7))}, batch, {"output": "logits", "labels": BIO})


@pytest.mark.parametrize(("given", "message"), [({"output": "y"}, "no labels"), ({"labels": ["a"]}, "which output")])
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        head.open(Path(), given)


def test_compare_counts_tokens() -> None:
    reference = [np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1]]
    candidate = [array.copy() for array in reference]
    candidate[0][1] = [5, 0, 0]
    measure = head.compare(reference, candidate)
    assert (measure.metric, measure.value, measure.loss) == ("token label agreement", 0.75, 0.25)
    candidate[1][0, 1] = np.inf
    assert head.compare(reference, candidate).loss == 0.5
    empty = [np.zeros((0, 3), np.float32)]
    assert head.compare(empty, empty).loss == 0
