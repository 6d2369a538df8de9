"""What a benchmark plans, feeds and weighs: tests of a bundle, inputs of stated lengths, bytes from files alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_bundles
import small_bundles

import edgekit
from edgekit import registry
from edgekit.bundle import manifest
from edgekit.core import Bundle, Graph, Port, Recipe, Source, Variant
from edgekit.errors import UsageError
from edgekit.measuring import configuration, inputs, sizes, turns
from edgekit.measuring.row import Way
from edgekit.runtimes.samples import texts as samples


def decoder(context: int = 4096) -> Bundle:
    source = Source("zoo:none", "llama", Path(), "", {})
    settings = {"context_length": context}
    return Bundle(Path("m.ek"), source, ("text-generation",), settings, ())


# What is planned


def test_every_combination_is_a_test() -> None:
    tests, said = configuration.plan(decoder(), prompt=(8, 16), generate=(4,), depth=(0, 32), batch=(1, 2))
    assert said == []
    assert [test.name for test in tests] == [
        *("pp8+tg4", "pp16+tg4", "pp8+tg4 batch 2", "pp16+tg4 batch 2"),
        *("pp8+tg4 d32", "pp16+tg4 d32", "pp8+tg4 d32 batch 2", "pp16+tg4 d32 batch 2"),
    ]
    assert tests[-1].parameters == {"prompt": 16, "generate": 4, "depth": 32, "batch": 2}
    assert tests[-1].tokens == 52


def test_lengths_that_nobody_asked_for_fit_into_the_context() -> None:
    (test,), said = configuration.plan(decoder())
    assert (test.name, said) == ("pp512+tg128", [])
    (test,), (said_of_it,) = configuration.plan(decoder(context=128))
    assert (test.prompt, test.generate) == (96, 32)
    assert "only holds 128 tokens, so the test was shortened to 96 prompt + 32 new tokens." in said_of_it
    (asked,), _ = configuration.plan(decoder(context=128), prompt=(512,), generate=(8,))
    assert asked.prompt == 512, "what was asked for is not changed, but refused where it is run"
    with pytest.raises(UsageError, match="a context of 128 tokens, and the test needs 520"):
        inputs.check(decoder(context=128), asked.tokens)


def test_scenarios_that_a_task_has() -> None:
    with pytest.raises(UsageError, match="has no 'offline' test") as caught:
        configuration.plan(decoder(), "offline")
    assert caught.value.hint == "it has llm"


def test_runs_fill_the_budget_within_bounds() -> None:
    way = Way(threads=1, place=Path())
    assert way.runs(1e-6, "single-stream") == 700, "enough for a p99"
    assert way.runs(0.1, "single-stream") == 100
    assert way.runs(60.0, "llm") == 6, "enough for an interval"
    assert replace(way, repetitions=3).runs(60.0, "llm") == 3


@pytest.mark.parametrize(("runs", "number"), [(7, 5), (700, 5), (3, 5), (64, 2)])
def test_rounds_have_all_runs_and_alike_many(runs: int, number: int) -> None:
    shares = [turns.share(runs, at, number) for at in range(number)]
    assert sum(shares) == runs
    assert max(shares) - min(shares) <= 1


# What is fed


def test_texts_and_series_are_the_same_every_time(tmp_path: Path) -> None:
    bundle = manifest.read(small_bundles.make(tmp_path / "a.ek"))
    assert inputs.items(bundle) == list(samples.TEXTS)
    ranking = manifest.read(small_bundles.make(tmp_path / "b.ek", "text-ranking"))
    assert all(len(pair) == 2 for pair in inputs.items(ranking))
    series = manifest.read(series_bundles.make(tmp_path / "s.ek"))
    kind = registry.task(series.task)
    first, again = ([kind.item(sample) for sample in inputs.items(series)] for _ in range(2))
    assert {one.shape for one in first} == {(1000, 2)}
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_the_user_s_own_inputs(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("speed,load\n" + "1,2\n3,\n" * 4)
    bundle = manifest.read(series_bundles.make(tmp_path / "s.ek"))
    one = registry.task(bundle.task).item(inputs.items(bundle, file)[0])
    assert one[0].tolist() == [1.0, 2.0]
    assert np.isnan(one[1, 1]), "missing"
    with pytest.raises(UsageError, match="cannot read") as caught:
        inputs.items(bundle, tmp_path / "none.csv")
    assert "--input" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_prompts_have_their_number_of_tokens_and_differ(exported: Callable[..., Path], tokens: int) -> None:
    with edgekit.load(exported("zoo:speaker"), target="cpu", precision="int4") as model:
        prompts = inputs.Prompts(model, tokens)
        made = [prompts[number] for number in range(5)]
        ingest: Any = model._ingest
        assert [len(one) for one in ingest.encode(made)] == [tokens] * 5
        assert prompts[3] == made[3]
        if tokens > 1:
            assert len({str(prompt) for prompt in made}) == 5
        assert len(prompts.ids(0)) == tokens


# What is weighed


def test_a_table_that_is_looked_up_is_not_read_for_a_token(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    names = {"embed": (100, 8), "layer": (8, 8), "head": (8, 100)}
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in names.items()]
    nodes = [
        helper.make_node("Gather", ["embed", "ids"], ["a"]),
        helper.make_node("MatMul", ["a", "layer"], ["b"]),
        helper.make_node("MatMul", ["b", "head"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 100])
    model = helper.make_model(helper.make_graph(nodes, "g", [ids], [logits], tensors))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    ids_port = Port("ids", "int64", ("batch", "sequence"))
    graph = Graph("g", "m.onnx", (ids_port,), (), kind="decoder")
    variant = Variant("cpu", Recipe(), (graph,))
    bundle = replace(decoder(), folder=tmp_path, variants=(variant,))
    assert sizes.token(bundle, variant, 10) == (8 * 8 + 8 * 100) * 4
    files = (tmp_path / "m.onnx").stat().st_size
    assert sizes.weights(bundle, variant) == files + (100 * 8 + 8 * 8 + 8 * 100) * 4
