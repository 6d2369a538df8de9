"""Decoders without an exporter's file: what transformers computes, or an error that says why not.

`RIGHT` and `REFUSED` say which architectures are which, and every entry is exported to see whether it is true.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_chat

import edgekit
from edgekit import registry
from edgekit.core import Recipe, Source
from edgekit.errors import BundleError, UnsupportedError
from edgekit.exporters._any_decoder import exporter
from edgekit.exporters._any_decoder.exporter import EXPORTER
from edgekit.exporters._trace import transformers_model
from edgekit.source import config_json

torch = pytest.importorskip("torch", reason="the tracer needs it")
HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 8}
# Changes to a tiny config, and whether ONNX Runtime computes its attention on shared buffers.
RIGHT: dict[str, tuple[dict[str, Any], bool]] = {
    "stablelm": ({"use_qkv_bias": True}, True),
    "gpt_neox": ({}, True),
    "phi": ({}, True),
    "gemma2": (WINDOW, True),
    "starcoder2": (WINDOW, True),
    "cohere": ({}, True),
    "glm": ({}, True),
    "bloom": ({}, False),
    "codegen": ({"rotary_dim": 8}, True),
    "falcon": ({"multi_query": True, "parallel_attn": True, "alibi": False}, False),
}
# These are held against transformers in every precision.
BLOCKS: dict[str, dict[str, Any]] = {
    "gemma": {"tie_word_embeddings": True},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "tie_word_embeddings": False},
}
# Changes to a tiny config, and what the error says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gpt_neo": ({"attention_types": [[["global", "local"], 1]], "window_size": 8}, "not give the logits"),
    "mixtral": ({"num_local_experts": 2}, "mixture of experts"),
    "recurrent_gemma": ({}, "recurrent state"),
    "t5": ({}, "no exporter"),
    "detr": ({}, "no exporter"),
    "gpt_neox_japanese": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
    "bart": ({}, "has an encoder"),
    "electra": ({}, "neither causal nor a window"),
    "reformer": ({"is_decoder": False}, "makes no model of this config"),
    "gemma3n_text": ({}, "knows no cache for"),
}
PROMPTS = [[5, 6, 7, 9, 40, 41, 3, 8, 9, 10, 11, 12], [7]]


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """transformers warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tiny_config(arch: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    known = AutoConfig.for_model(arch)
    fixed = {name for name in SIZES if isinstance(getattr(type(known), name, None), property)}
    sizes = {name: size for name, size in SIZES.items() if hasattr(known, name) and name not in fixed}
    return AutoConfig.for_model(arch, **{**sizes, **changes})


def save(arch: str, folder: Path, **changes: Any) -> Any:
    """A folder that transformers wrote, and its model, drawn wide enough that a mistake in any part is seen."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(arch, **changes)).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.tie_weights()
    model.save_pretrained(folder)
    tiny_chat.make_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    given = torch.tensor([ids])
    found = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False)
    return list(found[0][len(ids) :].tolist())


def logits(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("arch", RIGHT)
def test_what_is_traced_is_what_transformers_computes(tmp_path: Path, arch: str) -> None:
    changes, shared = RIGHT[arch]
    theirs = save(arch, tmp_path / "model", **changes)
    in_process.export(
        str(tmp_path / "model"), tmp_path / "made.ek", targets=HERE, precision="fp32", task="text-generation"
    )
    for target in HERE:
        with edgekit.load(tmp_path / "made.ek", target=target, threads=1) as model:
            for ids in PROMPTS:
                assert list(model.generate(ids, max_new_tokens=16).ids) == greedy(theirs, ids, 16), (target, len(ids))
            feeds, state = padded([PROMPTS[0][:9], PROMPTS[0][:4]]), None
            rows = [PROMPTS[0][:9], PROMPTS[0][:4]]
            for new in ([20, 30], [21, 31], [22, 32]):
                outputs, state = model.session_of().run(feeds, state)
                for row, found in zip(rows, outputs["logits"][:, -1], strict=True):
                    wanted = logits(theirs, row)[-1]
                    assert np.ptp(wanted) > 0.1
                    assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max()), (target, len(row))
                feeds, rows = padded([[one] for one in new]), [[*row, one] for row, one in zip(rows, new, strict=True)]
            if target == "cpu":
                assert (type(model.session_of()).__name__ == "DecoderSession") == shared


def padded(rows: list[list[int]]) -> dict[str, Any]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {"input_ids": ids, "counts": np.array([len(row) for row in rows])}


@pytest.mark.slow
@pytest.mark.parametrize("arch", REFUSED)
def test_what_cannot_be_traced_is_refused(tmp_path: Path, arch: str) -> None:
    changes, why = REFUSED[arch]
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(arch, **changes).to_dict() | {"architectures": None}))
    with pytest.raises(UnsupportedError, match=why) as caught:
        in_process.export(f"random:{tmp_path}", tmp_path / "made.ek", targets=["cpu"])
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert not (tmp_path / "made.ek").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arch", BLOCKS)
def test_weights_in_blocks(tmp_path: Path, arch: str) -> None:
    """Against transformers with the same rounded weights in it: what is lost is what activations lose."""
    theirs = save(arch, tmp_path / "model", **BLOCKS[arch])
    in_process.export(
        str(tmp_path / "model"),
        tmp_path / "made.ek",
        targets=HERE,
        precision=["fp32", "int8", "int4"],
        max_accuracy_loss=1.0,
    )
    sizes = {}
    for target in HERE:
        for precision, close in (("fp32", 1e-4), ("int8", 0.05), ("int4", 0.6)):
            with edgekit.load(tmp_path / "made.ek", target=target, precision=precision, threads=1) as model:
                outputs, _ = model.session_of().run(padded([PROMPTS[0]]))
                wanted = logits(theirs, PROMPTS[0])[-1]
                difference = np.abs(outputs["logits"][0, -1] - wanted).max() / np.abs(wanted).max()
                assert difference <= close, (target, precision)
                sizes[precision] = model.variant.measured["bytes"]
    assert sizes["int4"] < sizes["int8"] < sizes["fp32"]


@pytest.mark.slow
def test_made_up_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("stablelm").to_dict()))
    made = edgekit.export(f"random:{tmp_path}", tmp_path / "made.ek", targets=["cpu"])
    assert [variant.recipe.weights for variant in made.variants] == ["int4"]
    assert made.settings["context_length"] == 128
    with edgekit.load(tmp_path / "made.ek", threads=1) as model:
        assert len(model.generate([5, 6, 7], max_new_tokens=4).ids) == 4


def test_transformers_list_is_read_without_importing_it() -> None:
    assert {"llama", "stablelm", "gpt_neox", "mamba"} <= exporter.known()
    assert not {"t5", "vit", "whisper_encoder", ""} & exporter.known()
    assert registry.is_traced("stablelm")
    assert not registry.is_traced("llama")  # built
    assert registry.exporter("stablelm") is EXPORTER
    assert registry.exporter("llama") is registry.find("exporters", "llama").EXPORTER
    with pytest.raises(UnsupportedError, match="no architecture named 'stablelmm'"):
        registry.exporter("stablelmm")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"architectures": ["ElectraForMaskedLM"]}, "is ElectraForMaskedLM here"),
        ({"vision_config": {}}, r"several models \(vision_config\)"),
        ({"is_encoder_decoder": True}, "has an encoder"),
        ({"num_experts": 8}, "mixture of experts"),
    ],
)
def test_what_a_config_tells_by_itself(told: dict[str, Any], why: str) -> None:
    """So that nothing is downloaded for it."""
    config = {"model_type": "gemma", "architectures": ["GemmaForCausalLM"], "num_experts": 1}
    assert config_json.architecture(config) == "gemma"
    with pytest.raises(UnsupportedError, match=why) as caught:
        config_json.architecture(config | told)
    assert caught.value.hint == "did you mean 'gemma3_text'?"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["stablelm", "bert"])
def test_a_config_that_transformers_cannot_read(arch: str, tmp_path: Path) -> None:
    config = {"model_type": arch, "vocab_size": 320, "hidden_size": "many"}
    with pytest.raises(BundleError, match=rf"cannot read this config\.json of {arch}"):
        transformers_model.config_of(Source("x", arch, tmp_path, "", config, random=True))


def test_what_is_proved() -> None:
    short = exporter.proof_cases(2048, [])
    assert [[9], [1], [1], [1], [6]] in short  # a prompt, steps, several at once
    assert any(len({*counts}) > 1 for case in short for counts in case)  # rows of unequal lengths
    (beyond,) = [case for case in exporter.proof_cases(2048, [1000]) if case not in short]
    assert sum(counts[0] for counts in beyond) > 1000 + 10
    assert max(counts[0] for counts in beyond) <= 512
    for case in exporter.proof_cases(8, [4]):
        assert max(map(sum, zip(*case, strict=True))) <= 8


@pytest.mark.parametrize(
    ("rule", "size", "means"),
    [
        (lambda row, head, query, key: key <= query, None, 0),
        (lambda row, head, query, key: (key <= query) & (key > query - 5), 5, 5),
        (lambda row, head, query, key: (key <= query) & (key > query - 5), None, None),
        (lambda row, head, query, key: (key <= query) & (key // 5 == query // 5), 5, None),
        (lambda row, head, query, key: query >= 0, None, None),
        (lambda row, head, query, key: torch.ones((9, 9))[row, query] > 0, None, None),
    ],
)
def test_what_a_mask_means(rule: Any, size: int | None, means: int | None) -> None:
    from edgekit.exporters._any_decoder.torch_module import meaning

    assert meaning(rule, size) == means


@pytest.mark.slow
def test_a_way_that_only_short_inputs_take_is_no_trace() -> None:
    from edgekit.exporters._any_decoder.torch_module import check_lengths

    class Branching(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            both = torch.cat([x, y], 1)
            return both + 1 if both.shape[1] <= 100 else both * 2

    sample, axes = (torch.ones(3, 7), torch.ones(3, 5)), ({0: "batch", 1: "sequence"}, {0: "batch", 1: "past"})
    made = torch.onnx.export(Branching(), sample, dynamo=True, opset_version=23, dynamic_shapes=axes, verbose=False)
    check_lengths(made, 100)
    with pytest.raises(UnsupportedError, match="inputs longer than 100"):
        check_lengths(made, 101)


def test_groups_must_divide_what_they_are_of() -> None:
    from edgekit.exporters._any_decoder.quantize import _block

    assert _block("w", 64, Recipe(weights="int4", group_size=32, method="rtn")) == 32
    with pytest.raises(UnsupportedError, match="'w' has 60 inputs"):
        _block("w", 60, Recipe(weights="int4", group_size=32, method="rtn"))
