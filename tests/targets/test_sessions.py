"""Every target by name: the same contract, right numbers, strict placement, errors of ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit import registry
from edgekit.cache import compile_cache
from edgekit.core import Availability, Bundle, Graph, Port, Recipe, Source, Variant
from edgekit.errors import BundleError, ClosedError, DeviceError, ForkedSessionError, InputError
from edgekit.machine import device

TARGETS = registry.names("targets")
HERE = [name for name in TARGETS if registry.find("targets", name).probe().available]
GRAPH = Graph(
    "small",
    "small.onnx",
    (Port("x", "float32", ("batch", 4)),),
    (Port("y", "float32", ("batch", 4)),),
)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Any:
    module = registry.find("targets", request.param)
    found = module.probe()
    if not found.available:
        pytest.skip(f"{found.target}: {found.why}")
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "small.onnx"
    )
    return tmp_path


@pytest.fixture
def session(target: Any, folder: Path) -> Iterator[Any]:
    opened = target.open(folder, GRAPH, Recipe(), threads=2)
    yield opened
    opened.close()


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_runs_at_any_batch_and_says_where(session: Any) -> None:
    for batch in (1, 2, 7):
        x = np.full((batch, 4), 3, np.float32)
        outputs, states = session.run({"x": x})
        np.testing.assert_array_equal(outputs["y"], x * x)
        assert states is None
    assert session.placement


def test_outputs_are_the_callers_own(session: Any) -> None:
    first = session.run({"x": X})[0]["y"]
    kept = first.copy()
    session.run({"x": X + 1})
    np.testing.assert_array_equal(first, kept)


def test_threads_may_share_a_session(session: Any) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        x = np.full((3, 4), number, np.float32)
        for _ in range(50):
            if not np.array_equal(session.run({"x": x})[0]["y"], x * x):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": X.astype(np.float64)}, "input 'x' is float64"),
        ({"x": X[0]}, r"input 'x' is float32 \[4\]"),
        ({"x": X[:, :3].copy()}, r"input 'x' is float32 \[2, 3\]"),
        ({"x": X, "z": X}, "no input 'z'"),
    ],
)
def test_feeds_that_do_not_fit_never_reach_the_engine(session: Any, feeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session.run(feeds)


def test_closed_twice_is_closed_once(session: Any) -> None:
    session.close()
    session.close()
    with pytest.raises(ClosedError):
        session.run({"x": X})


def test_a_forked_child_is_refused_and_does_no_harm(session: Any) -> None:
    session.run({"x": X})
    child = os.fork()
    if child == 0:
        try:
            session.run({"x": X})
        except ForkedSessionError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    np.testing.assert_array_equal(session.run({"x": X})[0]["y"], X * X)


def test_a_file_that_is_no_graph(target: Any, tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError):
        target.open(tmp_path, GRAPH, Recipe(), threads=1)


@pytest.mark.parametrize("name", TARGETS)
def test_probe_imports_nothing_and_explains_itself(name: str) -> None:
    found = registry.find("targets", name).probe()
    assert isinstance(found, Availability)
    assert found.target == name
    assert found.available or (found.why and found.hint)


@pytest.mark.skipif("cuda" in HERE, reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none(folder: Path) -> None:
    with pytest.raises(DeviceError, match="without CUDA"):
        registry.find("targets", "cuda").open(folder, GRAPH, Recipe(), threads=1)


def test_a_fall_back_to_another_provider_is_an_error(folder: Path) -> None:
    """ONNX Runtime opens on the CPU with a warning when a provider is not built in; that is refused."""
    import onnxruntime as ort

    from edgekit.targets._ort.session import OnnxRuntimeSession  # type: ignore[import-not-found]

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(DeviceError, match="fell back to CPU"):
        OnnxRuntimeSession(folder, GRAPH, "CUDAExecutionProvider", ort.SessionOptions())


@pytest.mark.parametrize("name", HERE)
def test_a_target_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    module = registry.find("targets", name)

    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(module, "version", version)
    found = module.probe()
    assert not found.available
    assert "pip install" in found.hint


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_openvino_computes_in_the_precision_that_was_asked_for(folder: Path) -> None:
    module = registry.find("targets", "openvino")
    brief = "bfloat16" if device.cpu_features() & {"avx512f", "bf16"} else "float32"  # without, it takes the better one
    for precision, wanted in (("fp32", "float32"), ("bf16", brief), ("int8", "float32")):
        recipe = Recipe(weights=precision, activations=precision)
        session = module.open(folder, GRAPH, recipe, threads=1)
        assert wanted in str(session._compiled.get_property("INFERENCE_PRECISION_HINT"))
        session.close()


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_openvino_keeps_what_it_compiled_and_survives_damage_to_it(folder: Path, tmp_path: Path) -> None:
    module = registry.find("targets", "openvino")
    cache = tmp_path / "compiled"
    for damage in (None, b"", b"rubbish" * 100):
        session = module.open(folder, GRAPH, Recipe(), threads=1, cache=cache)
        np.testing.assert_array_equal(session.run({"x": X})[0]["y"], X * X)
        session.close()
        kept = [file for file in cache.rglob("*") if file.is_file()]
        assert kept
        if damage is not None:
            for file in kept:
                file.write_bytes(damage)
    session = module.open(folder, GRAPH, Recipe(), threads=1, cache=cache)
    np.testing.assert_array_equal(session.run({"x": X})[0]["y"], X * X)
    session.close()


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_two_graphs_of_a_variant_are_both_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each in its own folder: in one they would take turns, or one would be refused for the answer of the other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module, variant = registry.find("targets", "openvino"), Variant("openvino", Recipe(), ())
    bundle = Bundle(folder, Source("m", "bert", folder, "", {}), ("feature-extraction",), {}, (variant,))
    twice = onnx.load(folder / GRAPH.path)
    twice.graph.node[0].op_type = "Add"
    onnx.save(twice, folder / "twice.onnx")
    blobs = []
    for _ in range(2):
        for graph, wanted in ((GRAPH, X * X), (replace(GRAPH, name="twice", path="twice.onnx"), X + X)):
            cache = compile_cache.folder(bundle, variant, graph)
            session = module.open(folder, graph, Recipe(), threads=1, cache=cache)
            np.testing.assert_array_equal(session.run({"x": X})[0]["y"], wanted)
            session.close()
        blobs.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.blob")})
    assert len(blobs[0]) == 2
    assert blobs[0] == blobs[1]
    assert not caplog.text


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
@pytest.mark.parametrize("damage", [b"", b"PK torn", None], ids=["empty", "torn", "missing"])
def test_a_torn_answer_is_asked_for_again(folder: Path, tmp_path: Path, damage: bytes | None) -> None:
    from edgekit.targets._openvino.compile_cache import ANSWER, REFUSED

    module, cache = registry.find("targets", "openvino"), tmp_path / "compiled"
    module.open(folder, GRAPH, Recipe(), threads=1, cache=cache).close()
    (answer,) = cache.rglob(ANSWER)
    whole = answer.read_bytes()
    answer.unlink()
    if damage is not None:
        answer.write_bytes(damage)
    module.open(folder, GRAPH, Recipe(), threads=1, cache=cache).close()
    assert answer.read_bytes() == whole
    assert not list(cache.rglob(REFUSED))


@pytest.fixture
def rotary(tmp_path: Path) -> Path:
    """A graph of the kind that OpenVINO's cache was seen to spoil: hidden states turned by their position."""
    from onnx import numpy_helper

    angle = np.arange(32, dtype=np.float32)[:, None] * 0.5 ** np.arange(4, dtype=np.float32)
    table = np.random.default_rng(0).standard_normal((10, 8), np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["x"]),
        helper.make_node("Shape", ["ids"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["cos", "zero", "length", "zero"], ["cos_cut"]),
        helper.make_node("Slice", ["sin", "zero", "length", "zero"], ["sin_cut"]),
        helper.make_node("Shape", ["ids"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "length", "four"], ["wide"], axis=0),
        helper.make_node("Expand", ["cos_cut", "wide"], ["c"]),
        helper.make_node("Expand", ["sin_cut", "wide"], ["s"]),
        helper.make_node("RotaryEmbedding", ["x", "c", "s"], ["y"]),
    ]
    tensors = {
        "table": table, "cos": np.cos(angle), "sin": np.sin(angle), "one": np.array([1]), "zero": np.array([0]),
        "four": np.array([4]),
    }  # fmt: skip
    made = helper.make_graph(
        nodes,
        "rotary",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, "sequence", 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "rotary.onnx"
    )
    return tmp_path


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_openvino_loaded_from_its_cache_is_right_or_compiled_again(rotary: Path) -> None:
    module = registry.find("targets", "openvino")
    graph = Graph(
        "rotary",
        "rotary.onnx",
        (Port("ids", "int64", ("batch", "sequence")),),
        (Port("y", "float32", ("batch", 1, "sequence", 8)),),
    )
    ids = np.arange(18, dtype=np.int64).reshape(2, 9) % 10
    found = []
    for _ in range(3):
        session = module.open(rotary, graph, Recipe(), threads=1, cache=rotary / "compiled")
        found.append(session.run({"ids": ids})[0]["y"])
        session.close()
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_a_cached_model_that_answers_otherwise_is_thrown_away(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, cache = registry.find("targets", "openvino"), tmp_path / "compiled"
    module.open(folder, GRAPH, Recipe(), threads=1, cache=cache).close()
    np.savez(cache / "answer.npz", y=np.full((16, 4), 99, np.float32))
    session = module.open(folder, GRAPH, Recipe(), threads=1, cache=cache)
    np.testing.assert_array_equal(session.run({"x": X})[0]["y"], X * X)
    session.close()
    assert "compile cache is wrong" in caplog.text
    assert [file.name for file in cache.iterdir()] == ["do-not-cache"]
    module.open(folder, GRAPH, Recipe(), threads=1, cache=cache).close()
    assert [file.name for file in cache.iterdir()] == ["do-not-cache"]


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session = registry.find("targets", "openvino").open(
        folder, GRAPH, Recipe(), threads=1, cache=tmp_path / "file" / "compiled"
    )
    np.testing.assert_array_equal(session.run({"x": X})[0]["y"], X * X)
    session.close()


def test_an_option_that_a_bundle_may_not_set_is_refused(target: Any, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"no option 'session\.load_model_format'"):
        target.open(folder, GRAPH, Recipe(), threads=1, options={"session.load_model_format": "ORT"})


def test_an_option_has_its_values(target: Any, folder: Path) -> None:
    for name, allowed in target.OPTIONS.items():
        wrong = str(allowed[-1] + 1) if isinstance(allowed, range) else "maybe"
        with pytest.raises(BundleError, match=f"option {name} is '{wrong}'"):
            target.open(folder, GRAPH, Recipe(), threads=1, options={name: wrong})


def test_the_engine_is_opened_with_the_bundles_options(folder: Path) -> None:
    options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "96"}
    session: Any = registry.find("targets", "openvino").open(folder, GRAPH, Recipe(), threads=1, options=options)
    assert int(session._compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 96
    session.close()


def test_every_option_of_a_target_is_one_that_its_engine_takes(target: Any, folder: Path) -> None:
    options = {name: str(allowed[0]) for name, allowed in target.OPTIONS.items()}
    session = target.open(folder, GRAPH, Recipe(), threads=1, options=options)
    assert session.run({"x": X})[0]["y"].shape == X.shape
    session.close()


@pytest.mark.parametrize(
    ("shapes", "length"),
    [
        ([("batch", "sequence"), ("batch", "sequence")], 16),
        ([("batch", 3, 32, 32)], 16),
        ([("batch", 3, 64, 64)], 8),
        ([("batch", 3, 384, 384)], 1),
    ],
)
def test_a_question_to_a_compiled_model_is_small(shapes: list[tuple[int | str, ...]], length: int) -> None:
    """Opening an image model must not cost a batch of images."""
    from edgekit.targets._openvino.compile_cache import asked

    ports = tuple(Port(f"x{number}", "float32", shape) for number, shape in enumerate(shapes))
    assert asked(Graph("model", "model.onnx", ports, ())) == length
