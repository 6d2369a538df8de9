"""From a model's name to a bundle: right, small, the same every time, and nothing at all where something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import zoo
from edgekit.bundle import manifest, safe_files
from edgekit.checks import goldens
from edgekit.errors import EdgeKitError, InputError, UsageError, VerificationError
from edgekit.runtimes.samples import texts as samples
from edgekit.workbench import worker

BOTH = ("cpu", "openvino")
Exported = Callable[..., Path]


@pytest.fixture
def parity(exported: Exported) -> Path:
    """An embedding model in two precisions, for two targets."""
    return exported("zoo:parity")


@pytest.fixture
def spotter(exported: Exported) -> Path:
    """A token classifier."""
    return exported("zoo:spotter")


@pytest.fixture
def oddness(exported: Exported) -> Path:
    """A text classifier, by itself."""
    return exported("zoo:parity", task="text-classification", targets=("cpu",), precision="int8")


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in safe_files.walk(folder)}


def variants(folder: Path) -> list[tuple[str, str]]:
    return [(each.target, each.recipe.name) for each in manifest.read(folder).variants]


# Right: on data that the model never saw, by the model's own metric


def held_out(folder: Path, name: str, answer: Callable[[edgekit.Model, list[str]], Any]) -> dict[str, float]:
    """The metric of each variant, and that of torch as `trained`."""
    task = manifest.read(folder).task
    test = zoo.heldout(name, task)
    found = {"trained": test.trained}
    for target, precision in variants(folder):
        with edgekit.load(folder, target=target, precision=precision) as model:
            found[f"{target}/{precision}"] = zoo.score(test, answer(model, list(test.inputs)))
    return found


@pytest.mark.slow
def test_an_embedding_model_keeps_its_quality(parity: Path) -> None:
    found = held_out(parity, "parity", lambda model, texts: model.embed(texts))
    trained = found.pop("trained")
    assert len(found) == 4
    for name, score in found.items():
        assert score >= trained - (0.02 if "int8" in name else 0), name


@pytest.mark.slow
def test_a_classifier_keeps_its_quality(oddness: Path) -> None:
    found = held_out(oddness, "parity", lambda model, texts: [best[0].label for best in model.classify(texts)])
    assert found["cpu/int8-dynamic"] >= found["trained"] - 0.02


@pytest.mark.slow
def test_a_token_classifier_keeps_its_quality(spotter: Path) -> None:
    def spans(model: edgekit.Model, texts: list[str]) -> Any:
        return [[(span.start, span.end, span.label) for span in row] for row in model.tag(texts)]

    found = held_out(spotter, "spotter", spans)
    trained = found.pop("trained")
    for name, score in found.items():
        assert score == pytest.approx(trained, abs=0.02 if "int8" in name else 1e-9), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_spans_are_those_of_transformers(spotter: Path) -> None:
    from transformers import pipeline

    texts = list(zoo.heldout("spotter", "token-classification").inputs[:40])
    tagger = pipeline("token-classification", str(zoo.folder("spotter")), device="cpu", aggregation_strategy="first")
    wanted = [[(row["start"], row["end"], row["entity_group"]) for row in rows] for rows in tagger(texts)]
    with edgekit.load(spotter, precision="fp32") as model:
        found = model.tag(texts)
    assert sum(map(len, wanted)) > 20
    assert [[(span.start, span.end, span.label) for span in row] for row in found] == wanted


# Measured, small, and the same every time


@pytest.mark.slow
def test_what_was_measured_stands_in_the_bundle(parity: Path) -> None:
    made = manifest.read(parity)
    assert len(made.variants) == 4
    for variant in made.variants:
        measured = variant.measured
        assert measured["metric"] == "cosine"
        assert measured["agreement"] > 0.98
        assert measured["samples"] == len(samples.TEXTS)
        assert measured["milliseconds"] > 0
        if variant.recipe.name == "fp32":
            assert measured["proof_difference"] <= 1e-4
            assert measured["loss"] <= 1e-4
        else:
            assert measured["fp32_milliseconds"] > 0
            assert measured["bytes"] < measured["fp32_bytes"]
        assert measured["fp32_bytes"] == pytest.approx(4 * 72_192, rel=0.02), "four bytes for each parameter"
        (graph,) = variant.graphs
        assert 1 in graph.proven["batch"]
        assert set(graph.proven) == {axis for port in graph.inputs for axis in port.shape}
    assert made.goldens is not None
    assert len(made.goldens.inputs) == goldens.COUNT
    assert all(check.ok for check in edgekit.verify(parity))


@pytest.mark.slow
def test_variants_share_their_weights(parity: Path) -> None:
    made = manifest.read(parity)
    assert (parity / "weights.bin").stat().st_size < sum(each.measured["bytes"] for each in made.variants)
    plain = [each.graphs[0].path for each in made.variants if each.recipe.name == "fp32"]
    assert len(plain) == 2
    assert len(set(plain)) == 1
    assert sorted(path.name for path in parity.glob("*.bin")) == ["weights.bin"]


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(oddness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hash seed, the time zone, the language and the umask are."""
    for name, value in {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        edgekit.export(
            "zoo:parity", tmp_path / "again.ek", task="text-classification", targets=["cpu"], precision="int8"
        )
    finally:
        os.umask(before)
    first, second = digests(oddness), digests(tmp_path / "again.ek")
    manifests = [json.loads((folder / "edgekit.json").read_text()) for folder in (oddness, tmp_path / "again.ek")]
    for written in manifests:
        for variant in written["variants"]:
            variant["measured"] = {k: v for k, v in variant["measured"].items() if "milliseconds" not in k}
    assert manifests[0] == manifests[1]
    for found in (first, second):
        assert {found.pop("edgekit.json"), found.pop("edgekit.sha256")}
    assert first == second
    modes = {
        (tmp_path / "again.ek" / name).stat().st_mode & 0o777 for name in (*second, "edgekit.json", "edgekit.sha256")
    }
    assert modes == {0o600}
    assert (tmp_path / "again.ek").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_own_samples_a_cut_and_the_progress(tmp_path: Path) -> None:
    texts = ["one hundred", "seventy two", "nine"]
    (tmp_path / "mine.txt").write_text("\n".join(texts), encoding="utf-8")
    said: list[tuple[str, str]] = []
    made = edgekit.export(
        "zoo:parity",
        tmp_path / "made.ek",
        targets=["cpu"],
        precision="fp32",
        calibration=tmp_path / "mine.txt",
        dimensions=16,
        progress=lambda stage, what: said.append((stage, what)),
    )
    assert made.folder == tmp_path / "made.ek"
    assert manifest.read(made.folder).variants == made.variants
    assert made.goldens is not None
    assert made.goldens.inputs == tuple(texts)
    stages = list(dict.fromkeys(stage for stage, _ in said))
    assert stages == ["source", "trace", "build", "gate", "verify"]
    with edgekit.load(made.folder) as model:
        cut, whole = model.embed(texts), model.embed(texts, dimensions=32)
    assert cut.shape == (3, 16)
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1)
    assert cosine(cut, whole[:, :16]) == pytest.approx(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.ek", "mine.txt"]


def cosine(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.slow
def test_a_config_alone_makes_a_bundle_that_says_so(tmp_path: Path) -> None:
    told = json.loads((zoo.folder("spotter") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"vocab_size": 300}))
    made = edgekit.export(f"random:{tmp_path / 'config.json'}", tmp_path / "made.ek", targets=BOTH)
    assert made.source.random
    assert manifest.read(made.folder).source.random
    assert made.task == "token-classification"
    with edgekit.load(made.folder) as model:
        assert all(span.label in ("CARDINAL", "ORDINAL", "YEAR") for span in model.tag("twenty-one, naïve"))


# Refused, and nothing is touched


def refused(tmp_path: Path, model: str, kind: type[EdgeKitError], message: str, **options: Any) -> EdgeKitError:
    """The export fails with this error, and its folder is as empty as it was."""
    place = tmp_path / "out"
    place.mkdir()
    with pytest.raises(kind, match=message) as caught:
        edgekit.export(model, place / "made.ek", **options)
    assert list(place.iterdir()) == []
    assert caught.value.hint
    return caught.value


def test_vectors_alone_can_be_cut(tmp_path: Path) -> None:
    refused(tmp_path, "zoo:spotter", UsageError, "--dimensions is for embeddings", dimensions=4, targets=["cpu"])


def test_samples_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe\x00")
    error = refused(tmp_path, "zoo:parity", UsageError, "not UTF-8", calibration=tmp_path / "mine.txt", targets=["cpu"])
    assert error.exit_code == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, number: float) -> None:
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(zoo.folder("parity"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = max(tensors, key=lambda name: tensors[name].size)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[-1] = number
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    error = refused(tmp_path, str(model), VerificationError, f"'{name}' holds a NaN or an infinity")
    assert error.exit_code == 5
    assert error.details["tensors"] == [name]


@pytest.mark.slow
def test_a_cut_beyond_the_vector(tmp_path: Path) -> None:
    refused(tmp_path, "zoo:parity", InputError, "cannot shorten vectors of", dimensions=5000, targets=["cpu"])


@pytest.mark.slow
def test_a_budget_that_is_missed_leaves_the_earlier_bundle(oddness: Path, parity: Path, tmp_path: Path) -> None:
    shutil.copytree(oddness, tmp_path / "made.ek")
    before = digests(tmp_path / "made.ek")
    with pytest.raises(VerificationError, match=r"int8-dynamic lost too much accuracy: cosine is 0\.") as caught:
        edgekit.export("zoo:parity", tmp_path / "made.ek", targets=["cpu"], max_accuracy_loss=0, force=True)
    assert caught.value.exit_code == 5
    assert "--max-accuracy-loss" in caught.value.hint
    assert caught.value.details["allowed"] == 0
    assert digests(tmp_path / "made.ek") == before
    assert [path.name for path in tmp_path.iterdir()] == ["made.ek"]


def tamper(monkeypatch: pytest.MonkeyPatch, function: str, spoil: Callable[[Path], None], *, after: bool) -> None:
    """Run `spoil` on the work folder before or after the worker that calls `function`."""
    real = worker.run

    def run(name: str, payload: dict[str, Any], folder: Path, **options: Any) -> Any:
        if name == function and not after:
            spoil(folder)
        found = real(name, payload, folder, **options)
        if name == function and after:
            spoil(folder)
        return found

    monkeypatch.setattr(worker, "run", run)


@pytest.mark.slow
@pytest.mark.parametrize("change", [1e-2, float("nan")])
def test_a_graph_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    """One weight of the traced graph is another than torch's."""
    import onnx
    from onnx import numpy_helper

    def spoil(folder: Path) -> None:
        model = onnx.load(folder / ".scratch" / "fp32" / "model.onnx")
        bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("output.dense.bias"))
        array = numpy_helper.to_array(bias).copy()
        array[0] += change
        bias.CopyFrom(numpy_helper.from_array(array, bias.name))
        onnx.save(model, folder / ".scratch" / "fp32" / "model.onnx")

    tamper(monkeypatch, "edgekit.workbench.reference:work", spoil, after=True)
    error = refused(
        tmp_path,
        "zoo:parity",
        VerificationError,
        "differs from the original",
        targets=["cpu"],
        precision="fp32",
    )
    assert error.exit_code == 5
    assert error.details["variant"] == "cpu/fp32"
    assert "'last_hidden_state'" in error.message


@pytest.mark.slow
def test_a_bundle_that_does_not_repeat_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_bundles import spoil

    tamper(monkeypatch, "edgekit.verify:work", spoil, after=False)
    error = refused(
        tmp_path, "zoo:parity", VerificationError, "cpu/fp32 gives other outputs", targets=["cpu"], precision="fp32"
    )
    assert "outputs moved by" in error.message
