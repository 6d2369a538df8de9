"""What the cuda target says before it has a GPU: its precisions, what a GPU must have, what would not run there."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from built_decoders import config_of, folder_of
from cuda_forms import CUDA, RECIPES, compiled
from onnx import TensorProto, helper
from tiny_decoder import Shape, write

from edgekit import registry
from edgekit.core import Availability, Graph, Port, Recipe
from edgekit.errors import BundleError, DeviceError, UnsupportedError
from edgekit.targets._ort.engine import running  # type: ignore[import-not-found]
from edgekit.targets._ort.session import OnnxRuntimeSession  # type: ignore[import-not-found]
from edgekit.workbench.plan import plan

SMALL = Graph("s", "s.onnx", (Port("x", "float32", ("batch", 4)),), (Port("y", "float32", ("batch", 4)),))
HERE = CUDA.probe().available


@pytest.fixture
def small(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    made = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "small", [x], [y])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "s.onnx")
    return tmp_path


def test_a_node_on_the_cpu_means_that_the_graph_does_not_run_whole_on_the_gpu(small: Path) -> None:
    """What ONNX Runtime says of it is real: here all nodes are the CPU's."""
    config = ort.SessionOptions()
    config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with (
        pytest.raises(DeviceError, match=r"s\.onnx does not run whole on the GPU") as caught,
        CUDA.placement_errors(SMALL),
    ):
        OnnxRuntimeSession(small, SMALL, "CPUExecutionProvider", config)
    assert "CPU EP" in caught.value.cause
    assert "cuDNN" in caught.value.hint


def test_a_bad_graph_is_that(small: Path) -> None:
    (small / "s.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError), CUDA.placement_errors(SMALL):
        OnnxRuntimeSession(small, SMALL, "CPUExecutionProvider", ort.SessionOptions())


@pytest.mark.parametrize("text", ["CUDA failure 700: an illegal memory access", "CUBLAS failure 13", "cuDNN error"])
def test_a_failure_of_cuda_in_a_step_is_the_devices(text: str) -> None:
    with pytest.raises(DeviceError, match="ONNX Runtime failed"), running("s.onnx"):
        raise RuntimeError(text)


@pytest.mark.skipif(HERE, reason="this machine has CUDA")
def test_a_decoder_needs_a_gpu(tmp_path: Path) -> None:
    noun = compiled(tmp_path, write(tmp_path, Shape()), "fp16")
    with pytest.raises(DeviceError, match="built without CUDA"):
        CUDA.open(tmp_path, noun, RECIPES["fp16"], threads=1)


def test_bf16_needs_a_gpu_that_has_it() -> None:
    CUDA.check_capability(RECIPES["bf16"], (8, 0))
    CUDA.check_capability(RECIPES["fp16"], (7, 5))
    CUDA.check_capability(RECIPES["int4"], (7, 5))
    with pytest.raises(DeviceError, match=r"compute capability 7\.5, and bf16 needs 8\.0") as caught:
        CUDA.check_capability(RECIPES["bf16"], (7, 5))
    assert "fp16" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "recipe", "computes"),
    [
        ("plain", Recipe(), "fp32"),
        ("plain", Recipe("int8", "int8", None, "dynamic"), "fp32"),
        ("stream", RECIPES["int8"], "fp32"),
        ("decoder", RECIPES["int8"], "fp16"),
        ("decoder", RECIPES["int4"], "fp16"),
        ("decoder", RECIPES["fp16"], "fp16"),
        ("decoder", RECIPES["bf16"], "bf16"),
    ],
)
def test_a_report_says_what_computes(kind: str, recipe: Recipe, computes: str) -> None:
    assert CUDA.facts(recipe, replace(SMALL, kind=kind))["computes"] == computes


def test_what_loading_libraries_prints_does_not_reach_the_output(
    capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    class Talking:
        @staticmethod
        def preload_dlls(*, msvc: bool) -> None:
            print("Failed to load libcublas.so.13")

    with caplog.at_level("DEBUG", "edgekit"):
        CUDA._load_libraries(Talking)
        CUDA._load_libraries(ort)
    assert capsys.readouterr().out == ""
    assert "libcublas.so.13" in caplog.text
    assert "nothing is missing" in caplog.text or HERE


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CUDA, "probe", lambda: Availability("cuda", True, "ONNX Runtime CUDA", "1.31.1"))


@pytest.mark.usefixtures("with_gpu")
def test_a_plan_knows_that_decoders_have_other_precisions(tmp_path: Path) -> None:
    folder_of(tmp_path, config_of("llama"))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert [choice.name for choice in plan(str(tmp_path), targets=["cuda"]).choices] == ["cuda/int4-g32-rtn"]
    chosen = plan(str(tmp_path), targets=["cuda", "cpu"], precision=["bf16", "int8"])
    assert [choice.name for choice in chosen.choices] == ["cuda/bf16", "cuda/int8-g32-rtn", "cpu/int8-g32-rtn"]
    with pytest.raises(UnsupportedError, match="cuda cannot compute in fp32") as caught:
        plan(str(tmp_path), targets=["cuda"], precision=["fp32"])
    assert "bf16, fp16, int8, int4" in caught.value.hint


@pytest.mark.usefixtures("with_gpu")
def test_a_plan_for_an_encoder_has_those_of_encoders() -> None:
    assert registry.find("targets", "cuda") is CUDA
    assert [choice.recipe.weights for choice in plan("zoo:parity", targets=["cuda"]).choices] == ["int8"]
    with pytest.raises(UnsupportedError, match="cuda cannot compute in bf16"):
        plan("zoo:parity", targets=["cuda"], precision=["bf16"])


@pytest.mark.parametrize(
    ("device", "installed", "why"),
    [
        (None, False, "no NVIDIA GPU here"),
        (None, True, "no NVIDIA GPU here"),
        ("nvidiactl", False, "no NVIDIA GPU here"),
        ("nvidia0", False, "onnxruntime-gpu is not installed"),
        ("nvidia0", True, "the NVIDIA driver reports no GPU"),
        ("dxg", False, "onnxruntime-gpu is not installed"),
    ],
)
def test_a_gpu_is_looked_for_before_any_advice(
    device: str | None, installed: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody without a GPU is advised to uninstall the engine that works."""

    def version(package: str) -> str:
        if not installed:
            raise PackageNotFoundError(package)
        return "1.31.1"

    if device:
        (tmp_path / device).touch()
    monkeypatch.setattr(CUDA, "DEV", tmp_path)
    monkeypatch.setattr(CUDA, "_devices", lambda: 0)
    monkeypatch.setattr(CUDA, "version", version)
    found = CUDA.probe()
    assert (found.available, found.why) == (False, why)
    assert ("pip uninstall" in found.hint) is (why == "onnxruntime-gpu is not installed")
