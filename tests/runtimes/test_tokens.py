"""When an answer ends and what it says, token by token; and how far two models' next tokens are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chat
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError, VerificationError
from edgekit.runtimes.heads import tokens
from edgekit.runtimes.heads.tokens import Answer, Wish
from edgekit.runtimes.ingest import chat
from edgekit.runtimes.ingest.chat import Chat
from edgekit.runtimes.sampling import Sampling

END = 1
SAID = "one two three four"


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_chat.make_tokenizer().save(str(folder / "tokenizer.json"))
    return chat.open(folder, {"context_length": 64, "vocab_size": 320})


def told(ingest: Chat, text: str, *, end: bool = False, prompt: int = 3, **wish: Any) -> Answer:
    """The answer of a model that is sure of every token of `text`, until the answer ends."""
    answer = Answer([5] * prompt, [5] * prompt, ingest, Wish(ends=frozenset({END}), **wish))
    for id in [*ingest.tokenizer.encode(text).ids, *([END] if end else [])]:
        assert not answer.finish_reason
        logits = np.zeros(320, np.float32)
        logits[id] = 9
        if answer.ends(answer.choose(logits)):
            break
    return answer


def test_an_end_token_says_nothing(ingest: Chat) -> None:
    answer = told(ingest, SAID, end=True)
    assert (answer.text, answer.finish_reason, answer.chosen[-1]) == (SAID, "stop", END)


def test_enough_was_said(ingest: Chat) -> None:
    answer = told(ingest, SAID, max_new_tokens=2)
    assert (len(answer.chosen), answer.finish_reason) == (2, "length")


def test_no_more_room(ingest: Chat) -> None:
    answer = told(ingest, SAID * 9, prompt=60)
    assert (len(answer.chosen), answer.finish_reason) == (64 - 60 + 1, "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("three",), "one two "),
        (("e t",), "on"),
        (("two", "one two"), ""),
        (("r",), "one two th"),
        (("never", "fourteen"), SAID),
    ],
)
def test_a_stop_string_is_not_said(ingest: Chat, stop: tuple[str, ...], text: str) -> None:
    answer = told(ingest, SAID, end=True, stop=stop)
    assert (answer.text, answer.finish_reason) == (text, "stop")


@given(text=st.text("ab ", min_size=1, max_size=30), stop=st.text("ab ", min_size=1, max_size=4))
def test_what_is_said_ends_at_the_first_stop_string(ingest: Chat, text: str, stop: str) -> None:
    answer = told(ingest, text, end=True, stop=(stop,), max_new_tokens=64)
    assert answer.text == text.split(stop)[0]


def test_a_letter_that_is_never_complete_is_said_at_the_end(ingest: Chat) -> None:
    answer = told(ingest, "鬱", max_new_tokens=1)
    assert answer.text == "\ufffd"


def test_logits_that_are_not_numbers(ingest: Chat) -> None:
    answer = Answer([5], [5], ingest, Wish())
    with pytest.raises(VerificationError, match="not numbers"):
        answer.choose(np.full(320, np.nan, np.float32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"stop": ["x"] * 17}, "17 stop strings"),
        ({"stop": [""]}, "a stop string is ''"),
        ({"stop": ["x" * 257]}, "a stop string is"),
        ({"top_p": 2.0}, "top_p is 2.0"),
        ({"heat": 1}, "no option 'heat'"),
        ({"stop": 5}, "stop and stop_ids are lists"),
        ({"stop": [5]}, "a stop string is 5"),
        ({"stop_ids": 5}, "stop and stop_ids are lists"),
        ({"stop_ids": "ab"}, "a stop id is 'a'"),
        ({"stop_ids": [[1]]}, r"a stop id is \[1\]"),
        ({"stop_ids": [-1]}, "a stop id is -1"),
        ({"logit_bias": [7]}, r"logit_bias is \[7\]"),
    ],
)
def test_wishes_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tokens.wish({}, options)


def test_a_model_samples_only_when_asked_to() -> None:
    settings = {
        "eos_ids": [END],
        "generation": {"do_sample": True, "temperature": 0.6, "top_k": 20, "max_new_tokens": 7},
    }
    plain, warm = tokens.wish(settings, {}), tokens.wish(settings, {"temperature": 0.9, "stop_ids": [5]})
    assert plain == Wish(Sampling(), 7, (), frozenset({END}))
    assert warm == Wish(Sampling(temperature=0.9, top_k=20), 7, (), frozenset({END, 5}))


def test_the_distance_of_two_models() -> None:
    drawn = np.random.default_rng(0)
    logits = [drawn.standard_normal((4, 50)).astype(np.float32) for _ in range(3)]
    kept = [tokens.numbers(each) for each in logits]
    same = tokens.compare(kept, kept)
    assert (same.value, same.loss) == (1.0, 0.0)
    p, q = (
        np.exp(each.astype(np.float64)) / np.exp(each.astype(np.float64)).sum(-1, keepdims=True) for each in kept[:2]
    )
    apart = tokens.compare(kept[:1], kept[1:2])
    assert apart.loss == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()))
    assert tokens.compare(kept[:1], [np.full((4, 50), np.nan, np.float16)]).loss == float("inf")
    far = [np.stack([kept[0][0], kept[0][1] - np.float16(2000)])]  # one position's logits say nothing of another's
    assert tokens.compare(far, far).loss == 0.0


def test_only_the_last_positions_are_compared() -> None:
    assert tokens.positions(2) == [0, 1]
    assert tokens.positions(20) == list(range(4, 20))
    assert tokens.open(Path(), {"a": 1}) == {"a": 1}
