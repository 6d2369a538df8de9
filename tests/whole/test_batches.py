"""An item's answer does not depend on the other items of its call, nor on their order, on any engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import zoo
from edgekit.bundle import manifest
from edgekit.checks import invariance

pytestmark = pytest.mark.slow
TARGETS = ("cpu", "openvino")
ZOO = ("parity", "spotter", "digits", "motor", "sunspots", "speaker", "teller")
WORDS = ("The", "old", "lighthouse", "keeper", "counted", "1,204", "ships;", "NASA,", "e-mail", "&", "crème", "Yes!")


def texts(count: int) -> list[str]:
    """Of 1 to 12 words, in no order: capitals, numbers, signs, accents."""
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 13))) for _ in range(count)]


@pytest.mark.parametrize("name", ZOO)
def test_every_variant_of_the_zoo_is_batch_invariant(exported: Callable[..., Path], name: str) -> None:
    """The fact in the manifest, which the gate measured on the bundle's samples."""
    for variant in manifest.read(exported(f"zoo:{name}")).variants:
        assert variant.measured["batch_invariant"] is True, (variant.name, variant.measured["batch_difference"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_is_the_same_alone_in_a_batch_and_in_reverse(
    exported: Callable[..., Path], target: str, precision: str
) -> None:
    many = texts(60)
    with edgekit.load(exported("zoo:parity"), target=target, precision=precision) as model:
        alone = np.concatenate([model.embed(text, truncate=True) for text in many])
        for vectors in (model.embed(many, truncate=True), model.embed(many[::-1], truncate=True)[::-1]):
            cosines = np.einsum("ij,ij->i", alone, vectors) / np.linalg.norm(alone, axis=1)
            assert (cosines / np.linalg.norm(vectors, axis=1)).min() >= 0.99999
            np.testing.assert_allclose(vectors, alone, atol=5e-3)
        order = [one.index for one in model.rerank(many[0], many, truncate=True)]
        single = [model.similarity(many[0], text, truncate=True)[0, 0] for text in many]
        assert np.all(np.diff(np.array(single)[order]) <= 1e-4)  # the same order, but for ties


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["motor", "sunspots"])
def test_a_stream_is_the_same_beside_many_others(exported: Callable[..., Path], name: str, target: str) -> None:
    """Of which some are a hundred times as large: sample by sample, and in chunks."""
    features = len(zoo.heldout(name).inputs[0][0])
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(12, features)) * scale for scale in (1, 100, 0.01, 1, 10)]
    with edgekit.load(exported(f"zoo:{name}"), target=target, precision="int8") as model:
        alone = [list(model.stream(one)) for one in series]
        with model.streams() as streams:
            keys = [streams.add() for _ in series]
            for at in range(len(series[0])):
                found = streams.step({key: one[at] for key, one in zip(keys, series, strict=True)})
                for key, expected in zip(keys, alone, strict=True):
                    np.testing.assert_allclose(_numbers(found[key]), _numbers(expected[at]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_prompt_has_the_same_answer_beside_others(exported: Callable[..., Path], target: str, precision: str) -> None:
    with edgekit.load(exported("zoo:speaker"), target=target, precision=precision) as model:
        prompts = list(zoo.heldout("speaker").inputs[:8])
        answers = [model.generate(prompt, max_new_tokens=12).ids for prompt in prompts]
        assert [one.ids for one in model.run(prompts, max_new_tokens=12)] == answers
        assert [one.ids for one in model.run(prompts[::-1], max_new_tokens=12)] == answers[::-1]
        assert invariance.measure(model, prompts).holds


def _numbers(result: Any) -> Any:
    """Those of a result: a forecast's values, or the scores of labels by name."""
    if isinstance(result, list):
        return [label.score for label in sorted(result, key=lambda label: str(label.label))]
    return result.values
