"""What the tracer lets through: small modules, good and bad, and models whose weights do not fit their task."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from edgekit import registry
from edgekit.core import Recipe, Source
from edgekit.errors import UnsupportedError, VerificationError
from edgekit.exporters._trace import trace
from edgekit.exporters._trace.trace import Tracing
from edgekit.exporters._trace.traced import TorchSession, Traced
from edgekit.workbench import graph
from edgekit.workbench.prove import read_proof

torch = pytest.importorskip("torch", reason="the tracer needs it")

WIDTH = 4


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """Libraries of the workbench warn of their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Weighted(torch.nn.Module):  # type: ignore[misc, name-defined]
    """What a right module does: a mean over what the mask leaves."""

    def forward(self, *feeds: Any) -> Any:
        x, mask = feeds
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class Blind(Weighted):
    def forward(self, *feeds: Any) -> Any:
        return feeds[0].mean(1)


class Frozen(Weighted):
    """Reads a length as a number, as a table of positions made for one length does."""

    def forward(self, *feeds: Any) -> Any:
        return super().forward(*feeds) + torch.zeros(feeds[0].shape[1]).reshape(7).sum()


class Branching(Weighted):
    def forward(self, *feeds: Any) -> Any:
        return super().forward(*feeds) if feeds[0].sum().item() > 0 else feeds[0].mean(1)


def feed(sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones((sizes["batch"], sizes["sequence"]))
    mask[1::2, sizes["sequence"] // 2 :] = 0
    return {"x": torch.randn((sizes["batch"], sizes["sequence"], WIDTH), generator=generator), "mask": mask}


def tracing(module: Any) -> Tracing:
    return Tracing(
        module=module.eval(),
        inputs={"x": ("batch", "sequence", WIDTH), "mask": ("batch", "sequence")},
        outputs={"mean": ("batch", WIDTH)},
        feed=feed,
        shapes=({"batch": 1, "sequence": 5}, {"batch": 4, "sequence": 16}),
    )


def test_the_sample_hides_nothing() -> None:
    """Equal lengths could be taken for one axis, and 1 or 2 for a constant."""
    assert len(set(trace.SAMPLE.values())) == len(trace.SAMPLE)
    assert min(trace.SAMPLE.values()) >= 3


@pytest.mark.slow
def test_a_right_module_is_right_on_every_engine(tmp_path: Path) -> None:
    told = tracing(Weighted())
    program = trace.export(told)
    trace.check(program.model, told)
    program.save(str(tmp_path / "model.onnx"))
    trace.answer(told, tmp_path / "proof.npz", trace.proof_feeds(told))
    noun = graph.describe(graph.load(tmp_path / "model.onnx"), "model", "model.onnx", {})
    assert [port.shape for port in noun.inputs] == [("batch", "sequence", WIDTH), ("batch", "sequence")]
    assert [port.name for port in noun.outputs] == ["mean"]
    proof = list(read_proof(tmp_path / "proof.npz"))
    assert [feeds["x"].shape[:2] for feeds, _ in proof] == [(1, 5), (4, 16)]
    for target in ("cpu", "openvino"):
        session = registry.find("targets", target).open(tmp_path, noun, Recipe(), threads=1)
        for feeds, wanted in proof:
            assert session.run(feeds)[0]["mean"] == pytest.approx(wanted["mean"], abs=1e-6)
        session.close()


@pytest.mark.slow
def test_an_input_that_vanishes_is_named() -> None:
    told = tracing(Blind())
    with pytest.raises(VerificationError, match="does not use input 'mask'") as caught:
        trace.check(trace.export(told).model, told)
    assert "padded rows" in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.mark.slow
@pytest.mark.parametrize(("module", "why"), [(Frozen(), "static shape of 7"), (Branching(), "data-dependent")])
def test_what_cannot_be_traced_is_told_with_its_reason(module: Any, why: str) -> None:
    with pytest.raises(UnsupportedError, match=r"torch\.onnx could not trace this model") as caught:
        trace.export(tracing(module))
    assert caught.value.exit_code == 4
    assert why in caught.value.cause
    assert "\x1b" not in caught.value.cause


def test_an_axis_that_froze_is_named() -> None:
    """torch refuses most of these itself; what gets past it is seen in the graph."""
    import onnx_ir as ir

    told = tracing(Weighted())
    x = ir.Value(name="x", shape=ir.Shape(["batch", 7, WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    mask = ir.Value(name="mask", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.FLOAT))
    both = ir.node("Mul", [x, mask])
    model = ir.Model(ir.Graph([x, mask], both.outputs, nodes=[both], opset_imports={"": 23}), ir_version=10)
    with pytest.raises(VerificationError, match="axis 'sequence' of input 'x' became fixed at 7"):
        trace.check(model, told)


def test_a_module_is_a_session_that_gives_what_it_computes() -> None:
    told = tracing(Weighted())
    session = TorchSession(told)
    feeds = {name: value.numpy() for name, value in feed({"batch": 2, "sequence": 3}, 0).items()}
    outputs, state = session.run({"mask": feeds["mask"], "x": feeds["x"]})
    expected = Weighted()(torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["mask"])).numpy()
    np.testing.assert_array_equal(outputs["mean"], expected)
    assert state is None
    session.close()


@pytest.mark.slow
def test_graphs_lie_beside_their_proof_and_weights_are_loaded_once(tmp_path: Path) -> None:
    loads = []

    class Exporter(Traced):
        def trace(self, source: Source, task: str) -> Tracing:
            loads.append(task)
            return tracing(Weighted())

    source, stages = Source("m", "made-up", tmp_path, "", {}), list[str]()
    exporter = Exporter()
    (made,) = exporter.graphs(source, "any", Recipe(), tmp_path, stages.append)
    (session,) = exporter.reference(source, "any", tmp_path, stages.append).values()
    assert (made.name, made.path, made.kind) == ("model", "model.onnx", "plain")
    assert made.proven == {"batch": (1, 4), "sequence": (5, 16)}
    for feeds, expected in read_proof(tmp_path / "proof-model.npz"):
        np.testing.assert_array_equal(session.run(feeds)[0]["mean"], expected["mean"])
    assert loads == ["any"]
    assert stages == ["loading weights", "tracing with torch.onnx.export"]
    with pytest.raises(NotImplementedError, match=r"Traced\.trace"):
        Traced().trace(source, "any")


# Models whose weights, tokenizer or config do not fit


def load(folder: Path, task: str) -> Any:
    source = tiny_models.source_of(folder)
    return registry.find("exporters", source.arch).EXPORTER.trace(source, task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "weight"), [("text-classification", "classifier"), ("token-classification", "classifier")]
)
def test_weights_of_another_task_are_refused(tmp_path: Path, task: str, weight: str) -> None:
    folder = tiny_models.make(tmp_path / "model", "bert")
    with pytest.raises(UnsupportedError, match=f"no '{weight}.*not trained for {task}") as caught:
        load(folder, task)
    assert "--task" in caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.slow
def test_a_pooler_may_be_missing_only_where_nothing_uses_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_models.make(tmp_path / "model", "bert", "ForSequenceClassification")
    kept = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match=r"no 'bert\.pooler\.dense\.bias'"):
        load(folder, "text-classification")
    load(folder, "feature-extraction")


def made_in(folder: Path) -> Path:
    """Where the files of a bundle would lie."""
    (folder / "made").mkdir(exist_ok=True)
    return folder / "made"


def bert_settings(folder: Path, task: str, **changes: Any) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    source = tiny_models.source_of(folder)
    found: dict[str, Any] = registry.find("exporters", source.arch).EXPORTER.settings(source, task, made_in(folder))
    return found


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder that looks like BERT's, without weights that anybody could use."""
    config = {"model_type": "bert", "vocab_size": 300, "pad_token_id": 1, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny_models.write_weights(tmp_path, weight=[[1.0]])
    tiny_models.write_tokenizer(tmp_path)
    return tmp_path


def test_what_a_classifier_is_told(plain: Path) -> None:
    found = bert_settings(plain, "text-classification", id2label={"0": "no", "1": "yes"}, problem_type="regression")
    assert found["labels"] == ["no", "yes"]
    assert found["problem"] == "regression"
    assert found["max_length"] == 64
    assert found["pad_id"] == 1
    assert found["inputs"] == ["input_ids", "attention_mask"]
    assert bert_settings(plain, "text-classification", id2label=None, num_labels=3)["labels"] == [
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    ]


@pytest.mark.parametrize("stated", [32, 32.0, 10**30, float("inf"), None, -1])
def test_the_tokenizers_length_bounds_the_models(plain: Path, stated: float | None) -> None:
    (plain / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    assert bert_settings(plain, "text-classification")["max_length"] == (32 if stated == 32 else 64)


def test_the_mask_is_found_in_the_tokenizers_own_files(plain: Path) -> None:
    assert bert_settings(plain, "fill-mask")["mask_id"] == 4
    (plain / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "[SEP]"}}))
    assert bert_settings(plain, "fill-mask")["mask_token"] == "[SEP]"
    (plain / "tokenizer_config.json").unlink()
    (plain / "special_tokens_map.json").write_text(json.dumps({"mask_token": "<none>"}))
    with pytest.raises(UnsupportedError, match="no mask token '<none>'"):
        bert_settings(plain, "fill-mask")


def test_an_activation_that_is_not_known(plain: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"cross-encoder activation 'torch\.nn\.ReLU'") as caught:
        bert_settings(plain, "text-ranking", sbert_ce_default_activation_function="torch.nn.ReLU")
    assert caught.value.hint == "known: Sigmoid, Identity"
