from __future__ import annotations

import logging
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_bundles

import edgekit
from edgekit.bundle import manifest
from edgekit.core import Recipe, Variant
from edgekit.errors import BundleError, ClosedError, DeviceError, InputError, UnsupportedError, UsageError
from edgekit.machine import device
from edgekit.variants import choose

TEXTS = ["one", "two and a half", "", "three"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundles.make(tmp_path_factory.mktemp("embed") / "small.ek", goldens=True)


@pytest.fixture
def model(folder: Path) -> Iterator[edgekit.Model]:
    with edgekit.load(folder) as opened:
        yield opened


def test_embed_takes_one_text_or_many(model: edgekit.Model) -> None:
    vectors = model.embed(TEXTS)
    assert vectors.shape == (4, 6)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(model.embed("one"), vectors[:1], rtol=1e-6)
    assert model.embed([]).shape == (0, 6)


def test_a_text_has_the_same_vector_in_any_company(model: edgekit.Model) -> None:
    many = [f"{'word ' * (number % 9)}{number}" for number in range(100)]
    together = model.embed(many)
    alone = np.concatenate([model.embed(text) for text in many])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_matryoshka_cut_has_unit_length(model: edgekit.Model) -> None:
    cut = model.embed(TEXTS, dimensions=3)
    whole = model.embed(TEXTS)[:, :3]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), rtol=1e-5)
    with pytest.raises(InputError):
        model.embed(TEXTS, dimensions=7)


def test_prompt_goes_in_front(model: edgekit.Model) -> None:
    np.testing.assert_allclose(model.embed("x", prompt="query"), model.embed("query: x"), rtol=1e-6)
    with pytest.raises(InputError, match="no prompt named 'passage'"):
        model.embed("x", prompt="passage")


def test_similarity_and_rerank_by_vectors(model: edgekit.Model) -> None:
    scores = model.similarity("one", TEXTS)
    assert scores.shape == (1, 4)
    assert scores[0, 0] == pytest.approx(1)
    ranked = model.rerank("one", TEXTS, top_k=2)
    assert [ranked[0].index, len(ranked)] == [0, 2]
    assert model.rerank("one", []) == []


def test_too_long_is_an_error_unless_cut(model: edgekit.Model) -> None:
    with pytest.raises(InputError, match="tokens"):
        model.embed("x" * 100)
    assert model.embed("x" * 100, truncate=True).shape == (1, 6)


def test_run_is_the_generic_form(model: edgekit.Model) -> None:
    np.testing.assert_allclose(list(model.run(TEXTS)), model.embed(TEXTS))
    assert len(list(model.run("one"))) == 1


def test_other_tasks_have_their_methods(tmp_path: Path) -> None:
    with edgekit.load(small_bundles.make(tmp_path / "c.ek", "text-classification")) as model:
        assert [label.label for label in model.classify("x", top_k=1)] != []
        assert len(model.classify(["x", "y"])) == 2
        with pytest.raises(UnsupportedError, match=r"no embed\(\)") as caught:
            model.embed("x")
        assert "classify" in caught.value.hint
    with edgekit.load(small_bundles.make(tmp_path / "r.ek", "text-ranking")) as model:
        assert {ranked.index for ranked in model.rerank("q", ["a", "b"])} == {0, 1}
    with edgekit.load(small_bundles.make(tmp_path / "t.ek", "token-classification")) as model:
        assert isinstance(model.tag("some text"), list)
    with edgekit.load(small_bundles.make(tmp_path / "f.ek", "fill-mask")) as model:
        assert len(model.fill("a [MASK] b", top_k=3)[0]) == 3


def test_threads_may_share_a_model(model: edgekit.Model) -> None:
    expected = model.embed(TEXTS)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            if not np.allclose(model.embed(TEXTS), expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_closed_is_closed(folder: Path) -> None:
    model = edgekit.load(folder)
    model.close()
    model.close()
    with pytest.raises(ClosedError):
        model.embed("x")


def test_a_model_travels_by_its_path(model: edgekit.Model) -> None:
    """Pickled by the test, as multiprocessing does: the other side opens the bundle again."""
    with pickle.loads(pickle.dumps(model)) as other:  # noqa: S301
        np.testing.assert_allclose(other.embed(TEXTS), model.embed(TEXTS))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_allclose(pool.apply(_embed, (model, TEXTS)), model.embed(TEXTS))


def _embed(model: edgekit.Model, texts: list[str]) -> object:
    return model.embed(texts)


def test_what_a_bundle_has_not_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="no variant 'openvino/int4'") as caught:
        edgekit.load(folder, target="openvino", precision="int4")
    assert "cpu/fp32" in caught.value.hint
    for threads in (0, 10**9, 1.5, "2"):
        with pytest.raises(UsageError, match="threads is") as caught:
            edgekit.load(folder, threads=threads)  # type: ignore[arg-type]
        assert caught.value.hint == "give a whole number from 1 to 1024"
    for limit in (0, -1, "1G"):
        with pytest.raises(UsageError, match="memory_limit is"):
            edgekit.load(folder, memory_limit=limit)  # type: ignore[arg-type]
    with pytest.raises(BundleError):
        edgekit.load(folder / "nothing")


def test_more_threads_than_cores_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cores = device.affinity()
    edgekit.load(folder, threads=cores).close()
    assert "threads" not in caplog.text
    edgekit.load(folder, threads=cores + 1).close()
    assert f"{cores + 1} threads on {cores} cores are slower than {cores}" in caplog.text


def variant(target: str, precision: str, milliseconds: float | None) -> Variant:
    measured = {} if milliseconds is None else {"milliseconds": milliseconds}
    return Variant(target, Recipe(weights=precision), (), {}, measured)


def test_auto_takes_the_fastest_that_was_measured(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = replace(
        manifest.read(folder),
        variants=(variant("cpu", "fp32", 3), variant("cpu", "int8", 2), variant("openvino", "fp32", None)),
    )
    with caplog.at_level(logging.INFO, "edgekit"):
        assert choose(bundle, "auto", None).variant.name == "cpu/int8"
    assert "picked cpu/int8" in caplog.text
    assert choose(bundle, "auto", "fp32").variant.name == "cpu/fp32"
    assert choose(bundle, "openvino", None).variant.name == "openvino/fp32"


def test_auto_passes_over_what_this_machine_has_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.targets.cuda._devices", lambda: 0)
    bundle = replace(manifest.read(folder), variants=(variant("cuda", "fp32", 1), variant("cpu", "fp32", 3)))
    assert choose(bundle, "auto", None).variant.name == "cpu/fp32"
    with pytest.raises(DeviceError, match="no cuda on this machine") as caught:
        choose(bundle, "cuda", None)
    assert caught.value.hint


def test_a_device_that_is_not_here_comes_before_what_the_bundle_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.targets.cuda._devices", lambda: 0)
    with pytest.raises(DeviceError, match="no cuda on this machine"):
        edgekit.load(folder, target="cuda")


def test_numbers_are_in_the_order_of_the_call(model: edgekit.Model) -> None:
    texts = ["a" * length for length in (30, 1, 17, 60, 2)]
    assert [len(ids) for ids in model.encode(texts)] == [len(text) + 2 for text in texts]
    for text, found in zip(texts, model.numbers(texts), strict=True):
        np.testing.assert_allclose(found, model.embed(text)[0], atol=1e-6)


def test_a_long_list_goes_in_parts_that_nobody_notices(model: edgekit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number}" for number in range(10)]
    whole, tokens = model.embed(texts), model.encode(texts)
    monkeypatch.setattr("edgekit.runtimes.tasks._texts.PART", 3)
    np.testing.assert_allclose(model.embed(texts), whole, atol=1e-6)
    assert [ids.tolist() for ids in model.encode(texts)] == [ids.tolist() for ids in tokens]
    with pytest.raises(InputError, match=r"texts\[7\] has .* tokens"):
        model.embed([*texts[:7], "x" * 100])


def test_a_missing_mask_is_named_by_its_place_in_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.runtimes.tasks._texts.PART", 2)
    with edgekit.load(small_bundles.make(tmp_path / "f.ek", "fill-mask")) as model:
        with pytest.raises(InputError, match=r"texts\[3\] has no \[MASK\]"):
            model.fill(["a [MASK]", "b [MASK]", "c [MASK]", "d"])
        assert len(model.fill(["a [MASK]", "b [MASK]", "c [MASK]"])) == 3


def test_a_slow_model_is_timed_in_fewer_rounds(model: edgekit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 0
    outputs = model.outputs

    def counted(samples: list[str]) -> object:
        nonlocal runs
        runs += 1
        return outputs(samples)

    monkeypatch.setattr(model, "outputs", counted)
    assert model.seconds(TEXTS) > 0
    assert runs == 1 + 5 * len(TEXTS)
    monkeypatch.setattr("edgekit.model.ENOUGH", 0.0)
    model.seconds(TEXTS)
    assert runs == 1 + 5 * len(TEXTS) + 1 + len(TEXTS)
