from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgekit import registry
from edgekit.core import Availability
from edgekit.errors import DeviceError, ResourceError, SourceError, UnsupportedError, UsageError
from edgekit.workbench import plan as planning
from edgekit.workbench.plan import check_memory, plan

HERE = [name for name in registry.names("targets") if registry.find("targets", name).probe().available]

BERT = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def config_file(folder: Path, **changes: Any) -> str:
    (folder / "config.json").write_text(json.dumps(BERT | changes), encoding="utf-8")
    return f"random:{folder / 'config.json'}"


def names(made: planning.Plan) -> list[str]:
    return [name for name, _ in made.variants]


def test_without_options_every_target_of_this_machine_in_int8() -> None:
    made = plan("zoo:parity")
    assert names(made) == [f"{target}/int8-dynamic" for target in HERE]
    assert {reason for _, reason in made.variants} == {"the default for this kind of model"}
    assert made.task == "feature-extraction"
    assert made.left_out == ()
    assert made.weight_bytes == 76482 * 4  # as the model's card counts its parameters
    assert made.memory_needed > made.weight_bytes
    assert made.disk_needed > made.weight_bytes


def test_an_export_in_few_bits_writes_half_of_what_one_in_float32_does() -> None:
    """Where nothing is written as float32: not the reference either."""
    few, full, both = (plan("zoo:speaker", precision=each) for each in (("int4", "int8"), ("fp32",), ("int4", "fp32")))
    margin = 50_000_000
    assert 2 * (few.disk_needed - margin) == full.disk_needed - margin == both.disk_needed - margin


@pytest.mark.parametrize(
    ("model", "precision"), [("zoo:speaker", "int4"), ("zoo:teller", "int4"), ("zoo:motor", "int8")]
)
def test_language_models_are_int4_and_everything_else_int8(model: str, precision: str) -> None:
    assert all(f"/{precision}-" in name for name in names(plan(model)))


def test_the_task_is_the_one_that_the_weights_were_made_for(tmp_path: Path) -> None:
    assert plan("zoo:spotter").task == "token-classification"
    assert plan("zoo:parity", task="sentiment-analysis").task == "text-classification"
    assert plan("zoo:spotter", task="ner").task == "token-classification"
    one = config_file(tmp_path, architectures=["BertForSequenceClassification"], id2label={"0": "fit"})
    assert plan(one).task == "text-ranking"
    two = config_file(tmp_path, architectures=["BertForSequenceClassification"])
    assert plan(two).task == "text-classification"
    assert plan(config_file(tmp_path)).task == "feature-extraction"
    assert plan(config_file(tmp_path, architectures=["BertForMaskedLM"])).task == "fill-mask"


def test_targets_times_precisions() -> None:
    made = plan("zoo:parity", targets=["cpu", "openvino", "cpu"], precision=["fp32", "auto", "int8", "bf16"])
    assert names(made) == [
        "cpu/fp32",
        "openvino/fp32",
        "cpu/int8-dynamic",
        "openvino/int8-dynamic",
        "openvino/bf16",
    ]
    assert made.left_out == ("cpu does not compute in bf16",)
    assert {reason for _, reason in made.variants} == {"asked for"}


def test_a_config_alone_has_no_weights(tmp_path: Path) -> None:
    made = plan(config_file(tmp_path))
    assert made.source.random
    assert made.weight_bytes == 0


# What is refused


def test_a_precision_that_no_target_has() -> None:
    with pytest.raises(UnsupportedError, match="cpu cannot compute in bf16") as caught:
        plan("zoo:parity", targets=["cpu"], precision=["bf16"])
    assert caught.value.hint.startswith("cpu has fp32, int8")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"task": "text-clasification"}, "no task named", "did you mean 'text-classification'?"),
        ({"targets": ["opnvino"]}, "no target named", "did you mean 'openvino'?"),
        ({"precision": ["int3"]}, "no precision 'int3'", "known: fp32"),
        ({"precision": ["fp32"], "method": "dynamic"}, "fp32 quantizes nothing", ""),
        ({"precision": ["int8"], "group_size": 32}, "one scale per output channel", "leave --group-size out"),
    ],
)
def test_names_and_options_that_are_not_there(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        plan("zoo:parity", **options)
    assert caught.value.hint.startswith(hint)
    assert caught.value.exit_code == 4


def test_a_task_that_the_architecture_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.exporters._text_encoder import exporter

    monkeypatch.delitem(exporter.TASKS, "fill-mask")
    with pytest.raises(UnsupportedError, match="bert cannot be exported for the task fill-mask") as caught:
        plan("zoo:parity", task="fill-mask")
    assert "feature-extraction" in caught.value.hint


def test_a_class_that_says_no_task(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_models.write_weights(folder, weight=[[1.0]])
    (folder / "config.json").write_text(json.dumps(BERT | {"architectures": ["BertForNextSentencePrediction"]}))
    with pytest.raises(UnsupportedError, match="cannot tell the task of 'BertForNextSentencePrediction'") as caught:
        plan(str(folder))
    assert "--task" in caught.value.hint


def test_a_target_that_this_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.find("targets", "cuda").probe()
    if found.available:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError, match="target cuda cannot run on this machine") as caught:
        plan("zoo:parity", targets=["cpu", "cuda"])
    assert caught.value.hint == found.hint
    assert caught.value.exit_code == 8


def test_a_machine_without_any_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in registry.names("targets"):
        absent = Availability(name, False, name, "", "not installed")
        monkeypatch.setattr(registry.find("targets", name), "probe", lambda absent=absent: absent)
    with pytest.raises(DeviceError, match="no target runs on this machine") as caught:
        plan("zoo:parity")
    assert "onnxruntime" in caught.value.hint


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(SourceError) as caught:
        plan("zoo:parrity")
    assert "parity" in caught.value.hint


@pytest.mark.parametrize(("limit", "available"), [(10**9, None), (10**9, 10**12), (None, 10**9), (None, 1_300_000_000)])
def test_too_little_memory_is_refused_before_anything_is_done(limit: int | None, available: int | None) -> None:
    made = plan("zoo:parity")
    with pytest.raises(ResourceError, match="of memory, and") as caught:
        check_memory(made, limit, available)
    assert caught.value.exit_code == 7
    assert caught.value.details["needed"] == made.memory_needed
    assert caught.value.hint == ("raise --memory-limit" if limit else "export on a machine with more memory")


@pytest.mark.parametrize(("limit", "available"), [(None, None), (10**12, 10**6), (None, 10**12)])
def test_enough_memory(limit: int | None, available: int | None) -> None:
    check_memory(plan("zoo:parity"), limit, available)


def test_a_machine_without_the_workbench_is_told_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import export

    monkeypatch.setattr(sys.modules["edgekit.export"], "BUILDING", ("json", "torch_of_tomorrow"))
    with pytest.raises(DeviceError, match="exporting a model needs torch_of_tomorrow, not installed") as caught:
        export("somebody/some-model", tmp_path / "made.ek")
    assert "edgekit-onnx[export-lm]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_before_it_touches_the_folder(tmp_path: Path) -> None:
    import edgekit

    for options, kind in (
        ({"max_accuracy_loss": 1.5}, UsageError),
        ({"max_accuracy_loss": -0.1}, UsageError),
        ({"max_accuracy_loss": float("nan")}, UsageError),
        ({"targets": ["cpu"], "precision": "bf16"}, UnsupportedError),
        ({"memory_limit": 10**8}, ResourceError),
    ):
        with pytest.raises(kind):
            edgekit.export("zoo:parity", tmp_path / "made.ek", **options)
        assert list(tmp_path.iterdir()) == []


def test_engine_options_belong_to_a_target_of_the_bundle() -> None:
    options = {"openvino": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}}
    made = plan("zoo:parity", targets=["cpu", "openvino"], engine_options=options)
    assert [choice.options for choice in made.choices] == [{}, options["openvino"]]
    with pytest.raises(UsageError, match="--engine-option is for openvino, and the bundle is for cpu"):
        plan("zoo:parity", targets=["cpu"], engine_options=options)
    with pytest.raises(UsageError, match="option DYNAMIC_QUANTIZATION_GROUP_SIZE is '-1'"):
        plan("zoo:parity", engine_options={"openvino": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "-1"}})
