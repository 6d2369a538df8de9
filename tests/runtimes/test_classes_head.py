from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import SENTENCES, TorchSession, bert_config, minilm, numbers, tokenizer

from edgekit.errors import BundleError, InputError, UnsupportedError
from edgekit.runtimes.heads import classes as head
from edgekit.runtimes.ingest import text as ingest
from edgekit.runtimes.ingest.text import TextBatch

TRANSFORMERS = {"single": "single_label_classification", "multi": "multi_label_classification"}
PAIRS = [("how many legs has a cat", text) for text in SENTENCES if text]


def model(labels: int, problem: str | None) -> Any:
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(2)
    names = {i: f"class {i}" for i in range(labels)}
    made = BertForSequenceClassification(bert_config(id2label=names, problem_type=problem))
    torch.nn.init.normal_(made.classifier.weight, std=3.0)  # scores that lie apart
    return made.eval()


def logits(classifier: Any, items: list[Any], given: dict[str, Any]) -> Any:
    text = ingest.open(minilm(), {"inputs": list(ingest.INPUTS)})
    return numbers(head, TorchSession(classifier, "logits"), text, text.encode(items), given)


@pytest.mark.parametrize(
    ("labels", "problem"), [(5, "single"), (1, "single"), (5, "multi"), (1, "regression"), (3, "regression")]
)
@pytest.mark.parametrize("top_k", [None, 2])
def test_classify_is_that_of_transformers(labels: int, problem: str, top_k: int | None) -> None:
    from transformers import TextClassificationPipeline

    classifier = model(labels, TRANSFORMERS.get(problem, problem) if labels > 1 or problem != "single" else None)
    given = {"output": "logits", "labels": [f"class {i}" for i in range(labels)], "problem": problem}
    opened = head.open(Path(), given)
    found = head.answers(logits(classifier, SENTENCES, opened), SENTENCES, opened, top_k=top_k)
    reference = TextClassificationPipeline(model=classifier, tokenizer=tokenizer())(SENTENCES, top_k=top_k)
    assert [[answer.label for answer in row] for row in found] == [[a["label"] for a in row] for row in reference]
    for ours, theirs in zip(found, reference, strict=True):
        np.testing.assert_allclose([a.score for a in ours], [a["score"] for a in theirs], atol=2e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_rerank_is_that_of_a_cross_encoder(tmp_path: Path, activation: str) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    classifier = model(1, None)
    classifier.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    function = None if activation == "sigmoid" else torch.nn.Identity()
    encoder = CrossEncoder(str(tmp_path), device="cpu", activation_fn=function)
    reference = encoder.rank(PAIRS[0][0], [document for _, document in PAIRS])
    given = {"output": "logits", "labels": ["relevance"], **({"activation": activation} if function else {})}
    opened = head.open(Path(), given)
    found = head.rerank(logits(classifier, PAIRS, opened), opened)
    assert [answer.index for answer in found] == [answer["corpus_id"] for answer in reference]
    np.testing.assert_allclose([a.score for a in found], [a["score"] for a in reference], atol=2e-6)
    assert head.rerank(logits(classifier, PAIRS, opened), opened, top_k=2) == found[:2]


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    given = {"output": "y", "labels": ["a", "b", "c"]}
    (row,) = head.answers([np.zeros(3, np.float32)], [""], given)
    assert [answer.label for answer in row] == ["a", "b", "c"]
    assert [answer.score for answer in row] == pytest.approx([1 / 3] * 3)


def test_large_logits_do_not_overflow() -> None:
    logits = [np.array([1e4, -1e4], np.float32)]
    for problem in ("single", "multi"):
        (row,) = head.answers(logits, [""], {"labels": ["a", "b"], "problem": problem})
        assert [answer.score for answer in row] == [1, 0]


def test_no_texts_no_answers() -> None:
    assert head.answers([], [], {"labels": ["a"]}) == []
    assert head.rerank([], {"labels": ["a"]}) == []


@pytest.mark.parametrize("top_k", [0, -3])
def test_top_k_counts_answers(top_k: int) -> None:
    one = [np.zeros(1, np.float32)]
    with pytest.raises(InputError, match=f"top_k is {top_k}"):
        head.answers(one, [""], {"labels": ["a"]}, top_k=top_k)
    with pytest.raises(InputError, match=f"top_k is {top_k}"):
        head.rerank(one, {"labels": ["a"]}, top_k=top_k)


def test_rerank_needs_one_score() -> None:
    with pytest.raises(UnsupportedError, match="this one has 2"):
        head.rerank([np.zeros(2, np.float32)], {"labels": ["a", "b"]})


def test_a_graph_with_other_labels_is_refused() -> None:
    with pytest.raises(BundleError, match="gives 3 scores, and the bundle names 2"):
        head.numbers(
            {"y": np.zeros((1, 3))}, TextBatch({}, (0,), (), np.array([3])), {"output": "y", "labels": ["a", "b"]}
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "y"}, "no labels"),
        ({"output": "y", "labels": [1, 2]}, "no labels"),
        ({"labels": ["a"]}, "which output"),
        ({"labels": ["a"], "output": "y", "problem": "ranking"}, "problem is 'ranking', not one of single"),
        ({"labels": ["a"], "output": "y", "activation": "tanh"}, "activation is 'tanh'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        head.open(Path(), given)


def rows(*values: list[float]) -> list[Any]:
    return [np.array(value, np.float32) for value in values]


def test_compare_counts_labels_that_differ() -> None:
    reference = rows([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0])
    candidate = rows([9, 0, 0], [0, 0, 1], [0, 0, 2], [np.nan, 0, 0])
    measure = head.compare(reference, candidate, {"problem": "single"})
    assert (measure.metric, measure.value, measure.loss) == ("label agreement", 0.5, 0.5)


def test_compare_of_many_labels_wants_the_whole_set() -> None:
    reference, candidate = rows([3, 1, -1], [3, -1, -1]), rows([2, 4, -2], [3, 1, -1])
    assert head.compare(reference, candidate, {"problem": "multi"}).loss == 0.5
    assert head.compare(reference, candidate, {"problem": "single"}).loss == 0.5


@pytest.mark.parametrize("given", [{"problem": "regression"}, {"problem": "single"}, None])
def test_compare_of_single_numbers_is_relative(given: dict[str, Any] | None) -> None:
    measure = head.compare(rows([2], [-4]), rows([2.3], [-3.7]), given)
    assert measure.metric == "relative error"
    assert measure.loss == pytest.approx(0.1, rel=1e-5)
    assert head.compare(rows([2]), rows([2]), given).loss == 0
    assert head.compare(rows([2]), rows([np.nan]), given).loss == 1
