from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import TorchSession, bert_config, minilm, numbers, tokenizer

from edgekit.errors import BundleError, InputError
from edgekit.runtimes.heads import fill as head
from edgekit.runtimes.heads.fill import Token
from edgekit.runtimes.ingest import text as ingest
from edgekit.runtimes.ingest.text import Text

TEXTS = [
    "Paris is the [MASK] of France, isn't it?",
    "[MASK] people live in [MASK] now, and [MASK].",
    "[MASK]",
]
GIVEN = {"output": "logits", "mask_id": 103, "mask_token": "[MASK]"}


@pytest.fixture(scope="module")
def text() -> Text:
    return ingest.open(minilm(), {"inputs": list(ingest.INPUTS)})


@pytest.fixture(scope="module")
def bert() -> Any:
    import torch
    from transformers import BertForMaskedLM

    torch.manual_seed(4)
    model = BertForMaskedLM(bert_config()).eval()
    torch.nn.init.normal_(model.cls.predictions.decoder.weight, std=1.0)  # scores that lie apart
    return model


@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_fill_is_that_of_transformers(text: Text, bert: Any, top_k: int) -> None:
    from transformers import FillMaskPipeline

    encodings = text.encode(TEXTS)
    found = head.answers(
        numbers(head, TorchSession(bert, "logits"), text, encodings, GIVEN), encodings, GIVEN, top_k=top_k
    )
    reference = FillMaskPipeline(model=bert, tokenizer=tokenizer())(TEXTS, top_k=top_k)
    assert [len(masks) for masks in found] == [1, 3, 1]
    for masks, theirs in zip(found, reference, strict=True):
        for ours, row in zip(masks, theirs if len(masks) > 1 else [theirs], strict=True):
            assert [a.id for a in ours] == [b["token"] for b in row]
            assert [a.token for a in ours] == [b["token_str"] for b in row]
            assert [a.text for a in ours] == [b["sequence"] for b in row]
            np.testing.assert_allclose([a.score for a in ours], [b["score"] for b in row], atol=2e-6)


def test_one_proposal(text: Text) -> None:
    encodings = text.encode(["a [MASK]"])
    logits = np.full((1, 30522), -50, np.float32)
    logits[0, 4937] = 50
    (((token,),),) = head.answers([logits], encodings, GIVEN, top_k=1)
    assert token == Token("cat", 4937, 1.0, "a cat")


def test_top_k_may_be_the_whole_vocabulary(text: Text) -> None:
    logits = np.arange(6, dtype=np.float32)[None]
    (((*tokens,),),) = head.answers([logits], text.encode(["[MASK]"]), GIVEN, top_k=100)
    assert [token.id for token in tokens] == [5, 4, 3, 2, 1, 0]
    assert sum(token.score for token in tokens) == pytest.approx(1)


def test_a_text_without_a_mask_is_named(text: Text, bert: Any) -> None:
    with pytest.raises(InputError, match=r"texts\[1\] has no \[MASK\]") as caught:
        numbers(head, TorchSession(bert, "logits"), text, text.encode(["a longer [MASK]", "b"]), GIVEN)
    assert "[MASK]" in caught.value.hint


def test_top_k_counts_answers(text: Text) -> None:
    with pytest.raises(InputError, match="top_k is 0"):
        head.answers([np.zeros((1, 3), np.float32)], text.encode(["[MASK]"]), GIVEN, top_k=0)


@pytest.mark.parametrize("missing", ["output", "mask_id", "mask_token"])
def test_settings_that_do_not_fit_are_refused(missing: str) -> None:
    assert head.open(Path(), GIVEN) == GIVEN
    with pytest.raises(BundleError, match=f"do not give {missing}"):
        head.open(Path(), {name: value for name, value in GIVEN.items() if name != missing})


def test_compare_counts_masks() -> None:
    reference = [np.eye(4, dtype=np.float32)[:2], np.eye(4, dtype=np.float32)[2:]]
    candidate = [array.copy() for array in reference]
    candidate[0][1] = [0, 0, 3, 0]
    measure = head.compare(reference, candidate)
    assert (measure.metric, measure.value, measure.loss) == ("top-1 agreement", 0.75, 0.25)
    candidate[1][0, 0] = np.nan
    assert head.compare(reference, candidate).loss == 0.5
