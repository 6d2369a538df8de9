"""The graph that variants are held against: what the float32 one gives, from weights as their files have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgekit.errors import VerificationError
from edgekit.exporters._decoder.build import reference

CASES: list[tuple[str, dict[str, Any]]] = [
    *((arch, {}) for arch in tiny.architectures()),
    ("llama", {"tie_word_embeddings": True}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("phi3", {"tie_word_embeddings": True}),
    ("falcon_h1", {"ssm_multipliers": [0.5, 2.0, 3.0, 0.25, 1.5], "mlp_multipliers": [0.5, 3.0]}),
]


def halves(array: Any) -> Any:
    """The upper half of each float32: bfloat16, cut off."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


KINDS = {
    "bfloat16": halves,
    "float16": lambda array: array.astype(np.float16),
    "float32": lambda array: array,
}


def stored(folder: Path, arch: str, kind: str, **changes: Any) -> tuple[Any, Any]:
    """A source whose weights are of that kind, and its reference's graph, which is `reference.onnx`."""
    config = tiny.config_of(arch, **changes)
    drawn = tiny.tensors(tiny.as_source(folder, config))
    if config.get("tie_word_embeddings"):
        drawn.pop("lm_head.weight", None)
    source = tiny.folder_of(folder, config, {name: KINDS[kind](array) for name, array in drawn.items()})
    return source, reference(source, tiny.exporter(arch), folder / "reference.onnx", tiny.quiet)


def logits(folder: Path, graph: Any) -> list[Any]:
    run = tiny.onnxruntime(folder / graph.path)
    return [step.logits for step in tiny.generate(run, graph, tiny.prompts([9, 5]), steps=2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("arch", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_it_gives_what_the_graph_in_float32_gives(arch: str, changes: Any, kind: str, tmp_path: Path) -> None:
    source, graph = stored(tmp_path, arch, kind, **changes)
    wanted = logits(tmp_path, tiny.build(source, tmp_path))
    for found, expected in zip(logits(tmp_path, graph), wanted, strict=True):
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.ptp(expected), rtol=0)


@pytest.mark.parametrize(("kind", "size"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_each_tensor_is_there_once_as_it_was(kind: str, size: int, tmp_path: Path) -> None:
    source, _ = stored(tmp_path, "phi3", kind)  # whose files hold several layers as one
    model = onnx.load(tmp_path / "reference.onnx", load_external_data=False)
    matrices = {name: array for name, array in tiny.tensors(source).items() if array.ndim == 2}
    found = {each.name: each for each in model.graph.initializer if each.name in matrices}
    assert found.keys() == matrices.keys()
    whole = sum(array.size for array in matrices.values()) * size
    assert whole <= (tmp_path / "reference.bin").stat().st_size < whole + 4096 * (len(model.graph.initializer) + 9)


def test_no_engine_folds_what_is_made_of_weights(tmp_path: Path) -> None:
    """Else the model would be in memory as float32, whole."""
    _, graph = stored(tmp_path, "llama", "bfloat16")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(tmp_path / graph.path, options)
    casts = [node for node in onnx.load(options.optimized_model_filepath).graph.node if node.op_type == "Cast"]
    assert {"model.layers.1.mlp.down_proj.weight", "lm_head.weight"} <= {node.input[0] for node in casts}
    assert [each.name for each in session.get_inputs()] == [port.name for port in graph.inputs]


def test_what_is_made_of_weights_is_made_when_it_is_needed(tmp_path: Path) -> None:
    """As ONNX Runtime orders the nodes: a layer's weights are cast after the layer before has attended."""
    _, graph = stored(tmp_path, "llama", "bfloat16")
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = ort.InferenceSession(tmp_path / graph.path, options)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        return dict(zip([port.name for port in graph.outputs], session.run(None, feeds), strict=True))

    next(tiny.generate(run, graph, tiny.prompts([4]), steps=0))
    events = json.loads(Path(session.end_profiling()).read_bytes())
    ran = [event["name"] for event in events if event["cat"] == "Node"]
    attended = ran.index("layers.0.attention_kernel_time")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert ran.index(f"model.layers.1.{name}.weight.float_kernel_time") > attended
    assert ran.index("lm_head.weight.float_kernel_time") > ran.index("layers.1.attention_kernel_time")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_none(kind: str, value: float, tmp_path: Path) -> None:
    config = tiny.config_of("llama")
    arrays = tiny.tensors(tiny.as_source(tmp_path, config))
    arrays["model.layers.1.mlp.up_proj.weight"] = arrays["model.layers.1.mlp.up_proj.weight"].copy()
    arrays["model.layers.1.mlp.up_proj.weight"].flat[-3] = value
    source = tiny.folder_of(tmp_path, config, {name: KINDS[kind](array) for name, array in arrays.items()})
    with pytest.raises(VerificationError, match=r"layers\.1\.mlp\.up_proj\.weight' holds a NaN or an infinity"):
        reference(source, tiny.exporter("llama"), tmp_path / "reference.onnx", tiny.quiet)
    assert not (tmp_path / "reference.bin").exists()
