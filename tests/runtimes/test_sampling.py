"""Each step against transformers' logits processor of that name, on random logits; then whole chains, and the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from edgekit.errors import UsageError, VerificationError
from edgekit.runtimes import sampling as module
from edgekit.runtimes.sampling import RANGES, Chooser, History, Sampling

SIZES = (7, 300, 5_000)
PROMPT, ANSWER = [1, 2, 3, 3, 5], [4, 4, 2, 6]


def logits(size: int, seed: int = 0, spread: float = 3.0) -> Any:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def history(prompt: list[int] = PROMPT, answer: list[int] = ANSWER) -> History:
    made = History(prompt)
    for id in answer:
        made.add(id)
    return made


def processed(processor: Any, scores: Any, ids: list[int]) -> Any:
    import torch

    return processor(torch.tensor([ids]), torch.tensor(scores[None]))[0].numpy()


def processors() -> Any:
    from transformers.generation import logits_process

    return logits_process


WARPERS: dict[str, tuple[Sampling, Callable[[], Any]]] = {
    "temperature": (Sampling(temperature=0.7), lambda: processors().TemperatureLogitsWarper(0.7)),
    "top_k": (Sampling(temperature=1, top_k=5), lambda: processors().TopKLogitsWarper(5)),
    "top_p": (Sampling(temperature=1, top_p=0.8), lambda: processors().TopPLogitsWarper(0.8)),
    "top_p, most": (Sampling(temperature=1, top_p=0.999), lambda: processors().TopPLogitsWarper(0.999)),
    "top_p, none": (Sampling(temperature=1, top_p=0), lambda: processors().TopPLogitsWarper(0.0)),
    "min_p": (Sampling(temperature=1, min_p=0.1), lambda: processors().MinPLogitsWarper(0.1)),
    "typical": (Sampling(temperature=1, typical_p=0.6), lambda: processors().TypicalLogitsWarper(0.6)),
    "repetition": (Sampling(repetition_penalty=1.3), lambda: processors().RepetitionPenaltyLogitsProcessor(1.3)),
    "bias": (
        Sampling(logit_bias={2: 5.0, 4: -100.0}),
        lambda: processors().SequenceBiasLogitsProcessor({(2,): 5.0, (4,): -100.0}),
    ),
    "min_new_tokens": (
        Sampling(min_new_tokens=5),
        lambda: processors().MinNewTokensLengthLogitsProcessor(len(PROMPT), 5, [0, 6]),
    ),
    "min_new_tokens, over": (
        Sampling(min_new_tokens=4),
        lambda: processors().MinNewTokensLengthLogitsProcessor(len(PROMPT), 4, [0, 6]),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WARPERS)
def test_a_step_is_that_of_transformers(name: str, size: int, seed: int) -> None:
    sampling, reference = WARPERS[name]
    (step,) = sampling.steps(ends=[0, 6])
    scores = logits(size, seed)
    kept = scores.copy()
    found = step(scores, history())
    np.testing.assert_allclose(found, processed(reference(), scores, PROMPT + ANSWER), rtol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(scores, kept)  # what it was given stays


@pytest.mark.parametrize("size", SIZES)
def test_a_chain_is_that_of_transformers(size: int) -> None:
    """In the order of GenerationMixin._get_logits_processor."""
    p = processors()
    sampling = Sampling(
        temperature=0.6, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.95, repetition_penalty=1.2,
        logit_bias={3: 2.0}, min_new_tokens=9,
    )  # fmt: skip
    chain = p.LogitsProcessorList(
        [
            p.SequenceBiasLogitsProcessor({(3,): 2.0}),
            p.RepetitionPenaltyLogitsProcessor(1.2),
            p.MinNewTokensLengthLogitsProcessor(len(PROMPT), 9, [0]),
            p.TemperatureLogitsWarper(0.6),
            p.TopKLogitsWarper(50),
            p.TopPLogitsWarper(0.9),
            p.MinPLogitsWarper(0.02),
            p.TypicalLogitsWarper(0.95),
        ]
    )
    for seed in range(10):
        found = scores = logits(size, seed)
        for step in sampling.steps(ends=[0]):
            found = step(found, history())
        np.testing.assert_allclose(found, processed(chain, scores, PROMPT + ANSWER), rtol=1e-5)


@examples(200)
@given(
    scores=st.lists(st.integers(-200, 200).map(lambda n: n / 8), min_size=2, max_size=40, unique=True),
    p=st.floats(0.01, 0.99),
    k=st.integers(1, 50),
)
def test_warpers_on_any_logits(scores: list[float], p: float, k: int) -> None:
    array = np.array(scores, np.float32)
    shares = np.sort(np.exp(np.float64(array) - max(scores)))[::-1]
    carried = np.cumsum(shares / shares.sum())
    if np.abs(carried - p).min() > 1e-5:  # elsewhere float32 decides
        expected = processed(processors().TopPLogitsWarper(p), array, [0])
        np.testing.assert_array_equal(module.top_p(array, History(), p=p), expected)
    if np.abs(shares - p).min() > 1e-5:
        expected = processed(processors().MinPLogitsWarper(p), array, [0])
        np.testing.assert_array_equal(module.min_p(array, History(), p=p), expected)
    expected = processed(processors().TopKLogitsWarper(k), array, [0])
    np.testing.assert_array_equal(module.top_k(array, History(), k=k), expected)


def test_presence_and_frequency_are_those_of_the_api() -> None:
    """logit - count * frequency - (count > 0) * presence, of the answer only (OpenAI's API reference)."""
    scores = logits(8)
    expected = scores.copy()
    for id in set(ANSWER):
        expected[id] -= ANSWER.count(id) * 0.5 + 0.25
    (step,) = Sampling(presence_penalty=0.25, frequency_penalty=0.5).steps()
    np.testing.assert_allclose(step(scores, history()), expected, rtol=1e-6)


def test_what_was_removed_stays_removed() -> None:
    scores = logits(1000)
    scores[::2] = -np.inf
    for step in Sampling(temperature=0.5, top_k=400, top_p=0.9, min_p=0.01, typical_p=0.9).steps():
        scores = step(scores, History())
        assert np.isneginf(scores[::2]).all()
        assert np.isfinite(scores[1::2]).any()


def test_top_p_sorts_more_only_where_it_must() -> None:
    flat = np.zeros(20_000, np.float32) + logits(20_000, spread=1e-3)
    assert np.isfinite(module.top_p(flat, History(), p=0.5)).sum() == pytest.approx(10_000, rel=0.01)
    assert np.isfinite(module.top_p(flat, History(), p=1 - 1e-12)).all()
    peaked = flat.copy()
    peaked[7] = 50
    assert np.flatnonzero(np.isfinite(module.top_p(peaked, History(), p=0.9))).tolist() == [7]


def test_only_the_steps_that_are_needed() -> None:
    assert Sampling().steps([1]) == []
    assert Sampling(top_k=5, top_p=0.1).steps() == []  # greedy: the likeliest is the likeliest
    assert len(Sampling(temperature=1).steps()) == 0
    assert len(Sampling(temperature=1, min_new_tokens=3).steps()) == 0  # nothing to hold back


# Choosing


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert Chooser(Sampling()).choose(np.array([1, 3, 3, 2], np.float32)).id == 1
    assert Chooser(Sampling()).choose(np.array([-5, -3, -4], np.float16)).id == 1


def test_penalties_count_what_was_chosen() -> None:
    chooser = Chooser(Sampling(frequency_penalty=1.0))
    scores = np.array([3.0, 2.5, 0.2], np.float32)
    assert [chooser.choose(scores).id for _ in range(6)] == [0, 1, 0, 1, 0, 1]


def test_a_prompts_tokens_are_penalized_too() -> None:
    scores = np.array([3.0, 2.5], np.float32)
    assert Chooser(Sampling(repetition_penalty=2.0), [0]).choose(scores).id == 1
    assert Chooser(Sampling(presence_penalty=2.0), [0]).choose(scores).id == 0


def test_no_end_before_its_time() -> None:
    chooser = Chooser(Sampling(min_new_tokens=2), ends=[0])
    assert [chooser.choose(np.array([5.0, 1.0], np.float32)).id for _ in range(4)] == [1, 1, 0, 0]


@pytest.mark.parametrize("temperature", [0, 1])
def test_where_there_are_only_ends_one_is_chosen(temperature: float) -> None:
    chooser = Chooser(Sampling(temperature=temperature, min_new_tokens=2), ends=[0, 1])
    assert chooser.choose(np.array([50.0, 1.0], np.float32)).id == 0


def test_choices_have_the_distribution_of_the_model() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    chooser = Chooser(Sampling(temperature=1, seed=3))
    count = 8000
    found = np.bincount([chooser.choose(scores).id for _ in range(count)], minlength=4) / count
    # Four standard deviations of a share.
    assert (np.abs(found - np.exp(scores)) < 4 * np.sqrt(np.exp(scores) * (1 - np.exp(scores)) / count)).all()


def test_what_is_removed_is_never_chosen() -> None:
    chooser = Chooser(Sampling(temperature=5, top_k=3, seed=1))
    scores = logits(200)
    best = set(np.argsort(-scores)[:3].tolist())
    assert {chooser.choose(scores).id for _ in range(300)} == best


def test_a_seed_makes_the_same_choices_again() -> None:
    rows = [logits(500, seed) for seed in range(20)]

    def chosen(chooser: Chooser) -> list[int]:
        return [chooser.choose(scores).id for scores in rows]

    first = chosen(Chooser(Sampling(temperature=1, seed=5)))
    assert first == chosen(Chooser(Sampling(temperature=1, seed=5)))
    assert first != chosen(Chooser(Sampling(temperature=1, seed=6)))
    second = Chooser(
        Sampling(temperature=1, seed=5), row=1
    )  # rows of a batch differ, and each can be drawn again alone
    assert first != chosen(second)
    second = Chooser(Sampling(temperature=1, seed=5), row=1)
    assert chosen(second) == chosen(Chooser(Sampling(temperature=1, seed=second.seed)))
    drawn = Chooser(Sampling(temperature=1))
    assert chosen(drawn) == chosen(Chooser(Sampling(temperature=1, seed=drawn.seed)))
    assert drawn.seed != Chooser(Sampling(temperature=1)).seed


def test_log_probabilities_are_the_models_own() -> None:
    import torch

    scores = logits(300)
    expected = torch.log_softmax(torch.tensor(scores, dtype=torch.float64), -1).numpy()
    sampling = Sampling(temperature=0.1, top_k=1, repetition_penalty=1.5, logit_bias={7: 100.0}, logprobs=3)
    choice = Chooser(sampling).choose(scores)
    assert choice.id == 7
    assert choice.logprob == pytest.approx(expected[7], rel=1e-6)
    assert [id for id, _ in choice.top] == np.argsort(-expected)[:3].tolist()
    assert [value for _, value in choice.top] == pytest.approx(np.sort(expected)[::-1][:3].tolist())
    assert Chooser(Sampling(logprobs=0)).choose(scores).top == ()
    assert Chooser(Sampling(logprobs=0)).choose(scores).logprob == pytest.approx(float(expected.max()))
    assert Chooser(Sampling()).choose(scores).logprob is None
    assert len(Chooser(Sampling(logprobs=100)).choose(logits(5)).top) == 5


def test_the_logits_of_the_caller_stay() -> None:
    scores = logits(50)
    kept = scores.copy()
    Chooser(Sampling(temperature=0.5, top_k=3, repetition_penalty=2, logit_bias={1: 9.0}, logprobs=2), [1]).choose(
        scores
    )
    np.testing.assert_array_equal(scores, kept)


# What makes no sense


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("side", [0, 1])
def test_a_number_out_of_its_range_is_named(name: str, side: int) -> None:
    edge = RANGES[name][side]
    Sampling(**{name: edge})
    with pytest.raises(UsageError, match=f"{name} is") as caught:
        Sampling(**{name: edge + (1 if side else -1)})
    assert f"{RANGES[name][1]:g}" in caught.value.hint


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, [1]])
def test_what_is_no_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} is"):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 1e-9}, "temperature is 1e-09"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"logit_bias": {-1: 1.0}}, "a token id is -1"),
        ({"logit_bias": {"a": 1.0}}, "a token id is 'a'"),
        ({"logit_bias": {1: 1e9}}, "logit_bias of token 1 is"),
        ({"logit_bias": {1: float("-inf")}}, "logit_bias of token 1 is -inf"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sampling(**options)


def test_a_bias_on_a_token_that_the_model_has_not() -> None:
    with pytest.raises(UsageError, match="names token 50, and the model has 50"):
        Chooser(Sampling(logit_bias={50: 1.0})).choose(logits(50))


def test_ids_that_the_model_has_not_are_no_trouble() -> None:
    chooser = Chooser(Sampling(repetition_penalty=1.5, min_new_tokens=3), [2, 99], ends=[99])
    assert 0 <= chooser.choose(logits(50)).id < 50


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_not_numbers(wrong: float, options: dict[str, Any]) -> None:
    chooser = Chooser(Sampling(**options))
    chooser.choose(logits(50))
    scores = logits(50)
    scores[13] = wrong
    with pytest.raises(VerificationError, match="at new token 1"):
        chooser.choose(scores)
    with pytest.raises(VerificationError):
        chooser.choose(np.full(50, -np.inf, np.float32))


numbers = {
    "temperature": st.just(0.0) | st.floats(1e-3, 100),
    "top_k": st.integers(0, 10_000),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 100),
    "presence_penalty": st.floats(-100, 100),
    "frequency_penalty": st.floats(-100, 100),
    "min_new_tokens": st.integers(0, 3),
    "logit_bias": st.dictionaries(st.integers(0, 39), st.floats(-1000, 1000), max_size=3),
    "logprobs": st.none() | st.integers(0, 100),
    "seed": st.none() | st.integers(0, 2**63 - 1),
}


@examples(300)
@given(options=st.fixed_dictionaries({}, optional=numbers), spread=st.sampled_from([0.0, 1e-6, 3.0, 1e4]))
def test_any_options_choose_a_token(options: dict[str, Any], spread: float) -> None:
    chooser = Chooser(Sampling(**options), [1, 2, 99], ends=[0, 1])
    for seed in range(3):
        choice = chooser.choose(logits(40, seed, spread))
        assert 0 <= choice.id < 40
        assert choice.logprob is None or choice.logprob <= 0
