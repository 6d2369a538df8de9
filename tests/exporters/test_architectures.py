"""Every exporter, walked by name, with tiny random models: right for every task, and right from end to end.

A trace takes seconds. So each is made once for all tests of a model, and a run of the suite traces pairs, not the
product: every architecture for its vectors, and every task with one architecture. The other pairs are `nightly`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_models
from tiny_models import LABELS, TEXTS

import edgekit
from edgekit import registry
from edgekit.core import Graph, Recipe
from edgekit.workbench import graph
from edgekit.workbench.prove import read_proof

ARCHITECTURES = registry.names("exporters")
TARGETS = ("cpu", "openvino")
# The class that a task's weights belong to; ranking is classification with one label.
ENDINGS = {
    "feature-extraction": "Model",
    "text-classification": "ForSequenceClassification",
    "text-ranking": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "fill-mask": "ForMaskedLM",
}
VECTORS = "feature-extraction"
# The architecture that each other task is traced with in every run.
STANDS = {"text-classification": "roberta", "fill-mask": "modernbert", "token-classification": "bert"}
INT8_COSINE = 0.98


@cache
def exporter(arch: str) -> Any:
    return registry.find("exporters", arch).EXPORTER


def tasks_of(arch: str) -> tuple[str, ...]:
    # Ranking traces the same class as classification, with fewer labels. What is built is held to test_build.
    return tuple(task for task in exporter(arch).tasks if task in ENDINGS and task != "text-ranking")


def pairs() -> Iterator[Any]:
    """Every architecture with each of its tasks."""
    for arch in ARCHITECTURES:
        for task in tasks_of(arch):
            usual = task == VECTORS or STANDS[task] == arch
            yield pytest.param(arch, task, marks=[] if usual else pytest.mark.nightly)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Libraries of the workbench warn of their own future; what is tested here is what comes out of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield tmp_path


def labels(task: str) -> dict[str, Any]:
    count = {"text-classification": 3, "token-classification": 3, "text-ranking": 1}.get(task, 0)
    return {"id2label": {n: LABELS[n] for n in range(count)}, "label2id": {}} if count else {}


def run(folder: Path, target: str, noun: Graph, feeds: Any) -> dict[str, Any]:
    session = registry.find("targets", target).open(folder, noun, Recipe(), threads=1)
    try:
        found: dict[str, Any] = session.run(feeds)[0]
        return found
    finally:
        session.close()


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "task"), list(pairs()))
def test_graph_gives_what_torch_gives_at_shapes_it_never_saw(home: Path, arch: str, task: str) -> None:
    from edgekit.exporters._trace import trace

    folder = tiny_models.make(home / "model", arch, ENDINGS[task], **labels(task))
    (home / "made").mkdir()
    tracing = exporter(arch).trace(tiny_models.source_of(folder), task)
    program = in_process.shared_trace(f"{arch} {task}")(tracing)
    trace.check(program.model, tracing)
    program.save(str(home / "made" / "model.onnx"))
    trace.answer(tracing, home / "proof.npz", trace.proof_feeds(tracing))
    noun = graph.describe(graph.load(home / "made" / "model.onnx"), "model", "model.onnx", {})
    assert [port.name for port in noun.inputs] == list(tracing.inputs)
    proof = list(read_proof(home / "proof.npz"))
    assert {feeds["input_ids"].shape[0] for feeds, _ in proof} >= {1, 2}
    assert any((feeds["attention_mask"] == 0).any() for feeds, _ in proof)
    for target in TARGETS:
        for feeds, wanted in proof:
            found = run(home / "made", target, noun, feeds)
            for name, value in wanted.items():
                scale = np.abs(value).max()
                assert np.abs(found[name] - value).max() <= 1e-4 * scale, (target, feeds["input_ids"].shape)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if tasks_of(arch)])
def test_the_longest_input_is_the_last_that_torch_takes(home: Path, arch: str) -> None:
    """`max_length` counts all of the model's positions, and none beyond them; the padding id says where they start."""
    import torch
    from transformers import AutoModel

    for pad in (0, 1, 5):
        config = tiny_models.tiny_config(arch, pad_token_id=pad)
        if hasattr(config, "position_biased_input"):
            config.position_biased_input = True  # else DeBERTa has no table of positions
        source = tiny_models.as_source(config, home)
        longest = exporter(arch).settings(source, "feature-extraction", home)["max_length"]
        model = AutoModel.from_config(config).eval()
        ids = torch.full((1, longest), 7)
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if tasks_of(arch)])
def test_vectors_from_end_to_end(home: Path, arch: str) -> None:
    folder = tiny_models.make(home / "model", arch)
    in_process.export(
        str(folder),
        home / "made.ek",
        trace=f"{arch} {VECTORS}",
        targets=TARGETS,
        precision=("fp32", "int8"),
        max_accuracy_loss=0.05,
    )
    wanted = mean_pooled(folder)
    for target in TARGETS:
        with edgekit.load(home / "made.ek", target=target, precision="fp32") as model:
            found = model.embed(TEXTS)
            assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
            alone = np.stack([model.embed(text)[0] for text in TEXTS])
            assert np.abs(found - alone).max() <= 1e-4 * np.abs(wanted).max()
        with edgekit.load(home / "made.ek", target=target, precision="int8") as model:
            assert cosines(model.embed(TEXTS), wanted).min() > INT8_COSINE


def mean_pooled(folder: Path) -> Any:
    """transformers by itself, a text at a time, so without any padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.stack([model(**tokens(tokenizer, text)).last_hidden_state[0].mean(0).numpy() for text in TEXTS])


def tokens(tokenizer: Any, *texts: str) -> Any:
    found = tokenizer(*texts, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# The other tasks, against the libraries that people use


def made(home: Path, arch: str, task: str, *, token_types: bool = True, **changes: Any) -> Path:
    folder = tiny_models.make(home / "model", arch, ENDINGS[task], **labels(task) | changes)
    tiny_models.write_tokenizer(folder, token_types=token_types)
    name = f"{arch} {task}" if token_types else f"{arch} {task} without token types"
    in_process.export(str(folder), home / "made.ek", trace=name, task=task, targets=["cpu"], precision="fp32")
    return folder


def test_every_task_is_traced_in_every_run() -> None:
    for task, arch in STANDS.items():
        assert task in tasks_of(arch)
    assert {VECTORS, *STANDS} == {task for arch in ARCHITECTURES for task in tasks_of(arch)}


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_text_classification(home: Path, problem: str) -> None:
    from transformers import pipeline

    folder = made(home, "roberta", "text-classification", problem_type=problem)
    wanted = pipeline("text-classification", str(folder), device="cpu")(list(TEXTS), top_k=None)
    with edgekit.load(home / "made.ek") as model:
        found = model.classify(TEXTS)
    for mine, theirs in zip(found, wanted, strict=True):
        assert [label.label for label in mine] == [each["label"] for each in theirs]
        assert [label.score for label in mine] == pytest.approx([each["score"] for each in theirs], abs=1e-5)


@pytest.mark.slow
def test_fill_mask(home: Path) -> None:
    from transformers import pipeline

    folder = made(home, "modernbert", "fill-mask")
    texts = ["one [MASK]", "a longer text with one [MASK] in its middle"]
    wanted = pipeline("fill-mask", str(folder), device="cpu")(texts, top_k=3)
    with edgekit.load(home / "made.ek") as model:
        found = model.fill(texts, top_k=3)
    for (mine,), theirs in zip(found, wanted, strict=True):
        assert [token.id for token in mine] == [each["token"] for each in theirs]
        assert [token.score for token in mine] == pytest.approx([each["score"] for each in theirs], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "token_types"), [("activation.Sigmoid", True), ("linear.Identity", False)])
def test_text_ranking(home: Path, activation: str, token_types: bool) -> None:
    from sentence_transformers import CrossEncoder

    stated = {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{activation}"}}
    folder = made(home, "bert", "text-ranking", token_types=token_types, **stated)
    wanted = CrossEncoder(str(folder), device="cpu").predict([("a query", text) for text in TEXTS])
    with edgekit.load(home / "made.ek") as model:
        assert ("token_type_ids" in model.bundle.settings["inputs"]) == token_types
        found = model.rerank("a query", TEXTS)
    assert [row.index for row in found] == list(np.argsort(-wanted))
    assert [row.score for row in found] == pytest.approx(np.sort(wanted)[::-1], abs=1e-5)


# What an exporter says of itself


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if tasks_of(arch)])
def test_token_types_are_an_input_where_model_and_tokenizer_have_some(arch: str) -> None:
    told = exporter(arch)
    for config in ({"type_vocab_size": 1}, {"type_vocab_size": 0}, {}):
        assert "token_type_ids" not in told.inputs(config, {})
    assert ("token_type_ids" in told.inputs({"type_vocab_size": 2}, {})) == told.token_types
    assert "token_type_ids" not in told.inputs({"type_vocab_size": 2}, {"model_input_names": ["input_ids"]})
