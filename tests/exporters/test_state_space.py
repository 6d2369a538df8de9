"""State spaces and short convolutions, as built, against transformers: any length, in any pieces, beside any padding.

Graphs are run as they are, in both engines, with their states carried by hand. The models are tiny and random, drawn
wide enough that a mistake in any part moves the logits by far more than rounding does.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import built_decoders as tiny
import numpy as np
import onnx
import pytest

from edgekit.core import Graph, Recipe
from edgekit.errors import BundleError, UnsupportedError
from edgekit.exporters._decoder.activations import softplus
from edgekit.exporters._decoder.blueprint_from_config import read
from edgekit.exporters._onnx_writer import Draft
from edgekit.quantize import blocks
from edgekit.runtimes.loops.decode import whole_prompts as feeds

pytest.importorskip("torch", reason="the reference needs it")

EXACT = 2e-5  # float32; logits reach 5
FACTORS = {
    "mlp_multipliers": [0.7, 1.3], "ssm_multipliers": [0.5, 1.2, 0.8, 1.1, 0.9], "key_multiplier": 0.6,
    "attention_in_multiplier": 1.2, "attention_out_multiplier": 0.7, "ssm_in_multiplier": 0.9,
    "ssm_out_multiplier": 0.8, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0,
}  # fmt: skip
# By powers of two: what is multiplied and then quantized is exactly what is quantized and then multiplied.
EXACT_FACTORS = {
    "mlp_multipliers": [0.5, 2.0], "ssm_multipliers": [0.5, 2.0, 0.25, 4.0, 0.5], "key_multiplier": 0.5,
    "attention_in_multiplier": 2.0, "ssm_in_multiplier": 0.5, "ssm_out_multiplier": 2.0,
}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True, "projectors_bias": True, "mamba_proj_bias": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba", {}),
    "mamba with biases": ("mamba", {"use_bias": True, "conv_kernel": 2, "tie_word_embeddings": False}),
    "mamba without": ("mamba", {"use_conv_bias": False, "time_step_rank": 7, "hidden_act": "gelu"}),
    "falcon_mamba": ("falcon_mamba", {}),
    "falcon_mamba with biases": ("falcon_mamba", {"use_bias": True, "mixer_rms_eps": 0.1, "conv_kernel": 3}),
    "mamba2": ("mamba2", {}),
    "mamba2 in one group": ("mamba2", {"n_groups": 1, "use_bias": True, "tie_word_embeddings": True}),
    "mamba2 by heads": ("mamba2", {"n_groups": 8, "use_conv_bias": False, "conv_kernel": 2}),
    "mamba2 within limits": ("mamba2", {"time_step_limit": [0.3, 0.7]}),
    "lfm2": ("lfm2", {}),
    "lfm2 with biases": ("lfm2", {"num_hidden_layers": 3, "layer_types": ["full_attention", "conv", "conv"],
                                  "conv_bias": True, "conv_L_cache": 5, "tie_word_embeddings": False}),
    "falcon_h1": ("falcon_h1", FACTORS),
    "falcon_h1 with biases": ("falcon_h1", FACTORS | BIASES | {"mamba_n_groups": 2, "mamba_rms_norm": True}),
    "falcon_h1 gated first": ("falcon_h1", {"mamba_rms_norm": True, "mamba_norm_before_gate": False,
                                            "mamba_conv_bias": False, "tie_word_embeddings": True}),
}  # fmt: skip
QUICK = ("mamba", "mamba2", "lfm2", "falcon_h1")


@dataclass
class Built:
    """A graph, and the model it was made from."""

    folder: Path
    graph: Graph
    model: Any
    engine: str

    @cached_property
    def run(self) -> tiny.Run:
        return tiny.ENGINES[self.engine](self.folder / self.graph.path)

    def start(self, rows: int) -> Text:
        return Text(self, tiny.nothing_yet(self.graph, rows), np.zeros((rows, 0), np.int64))


@dataclass
class Text:
    """Rows under way: their states, and which slots of the caches hold a token."""

    built: Built
    states: dict[str, Any]
    mask: Any

    def add(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """Feed each row's new tokens; logits of each of them, row by row. Padding is made of any tokens."""
        counts, longest = np.array([len(row) for row in rows]), max(map(len, rows))
        new = np.arange(longest)
        ids = np.array([[*row, *range(11, 11 + longest - len(row))] for row in rows])
        past, real = self.mask.sum(axis=1), (new < counts[:, None]).astype(np.int64)
        self.mask = np.concatenate([self.mask, real], axis=1)
        known = {
            "input_ids": ids,
            "counts": counts,
            "position_ids": past[:, None] + np.minimum(new, counts[:, None] - 1),
            "attention_mask": self.mask,
            "logit_positions": np.tile(new, (len(rows), 1)),
            **self.states,
        }
        outputs = self.built.run({port.name: known[port.name] for port in self.built.graph.inputs})
        self.states = {state.into: outputs[state.out] for state in self.built.graph.states}
        return [logits[:count] for logits, count in zip(outputs["logits"], counts, strict=True)]

    @property
    def fixed(self) -> dict[str, Any]:
        growing = {state.into for state in self.built.graph.states if state.axis is not None}
        return {name: value for name, value in self.states.items() if name not in growing}


@pytest.fixture(autouse=True)
def workbench() -> Iterator[None]:
    """transformers warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def thorough(names: Sequence[str] = tuple(CASES)) -> list[Any]:
    """Each case on each engine; all but a few in ONNX Runtime are for who has time."""
    return [
        pytest.param(name, engine, marks=[] if name in QUICK and engine == "onnxruntime" else pytest.mark.slow)
        for name in names
        for engine in tiny.ENGINES
    ]


def built(folder: Path, name: str, engine: str) -> Built:
    arch, told = CASES[name]
    room = {} if "mamba" in arch else {"max_position_embeddings": 512}
    source, model = tiny.trained(folder, arch, **{**room, **told})
    return Built(folder, tiny.build(source, folder), model, engine)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), thorough())
def test_prompts_of_any_length(tmp_path: Path, name: str, engine: str) -> None:
    made = built(tmp_path, name, engine)
    for length in (1, 2, 5, 33, 257):
        (row,) = tiny.prompts([length])
        (found,) = made.start(1).add([row])
        wanted = tiny.expected(made.model, row)
        assert np.ptp(wanted) > 1
        assert np.abs(found - wanted).max() <= EXACT, length


@pytest.mark.parametrize(("name", "engine"), thorough())
def test_a_text_in_pieces_is_the_text(tmp_path: Path, name: str, engine: str) -> None:
    """Logits of every token, and the state behind the last, however the text is cut."""
    made = built(tmp_path, name, engine)
    (row,) = tiny.prompts([33])
    wanted, whole = tiny.expected(made.model, row), made.start(1)
    whole.add([row])
    for cuts in ([1, 2, 9], [32], range(20, 33), range(1, 33)):
        text, bounds = made.start(1), [0, *cuts, len(row)]
        found = [text.add([row[begin:end]])[0] for begin, end in itertools.pairwise(bounds)]
        assert np.abs(np.concatenate(found) - wanted).max() <= EXACT, cuts
        for state, value in text.fixed.items():
            assert np.abs(value - whole.fixed[state]).max() <= EXACT, (state, cuts)


@pytest.mark.parametrize(("name", "engine"), thorough())
def test_rows_do_not_see_each_other_nor_padding(tmp_path: Path, name: str, engine: str) -> None:
    made = built(tmp_path, name, engine)
    pieces = [tiny.prompts(lengths, seed) for seed, lengths in enumerate([[9, 1, 5], [1, 4, 2], [1, 1, 1], [2, 6, 3]])]
    together, alone = made.start(3), [made.start(1) for _ in range(3)]
    texts: list[list[int]] = [[], [], []]
    for piece in pieces:
        found = together.add(piece)
        for row, new in enumerate(piece):
            texts[row] += new
            assert np.abs(found[row] - tiny.expected(made.model, texts[row])[-len(new) :]).max() <= EXACT
            alone[row].add([new])
            for state, value in together.fixed.items():
                assert np.abs(value[row] - alone[row].fixed[state][0]).max() <= EXACT, state


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_states_that_are_forgotten_at_once_or_never(tmp_path: Path, arch: str) -> None:
    """Exponents that add up to thousands over the run, and some that add up to nothing."""
    import torch

    source, model = tiny.trained(tmp_path, arch)
    with torch.no_grad():
        for layer in model.backbone.layers:
            decays = layer.mixer.A_log
            decays.copy_(torch.linspace(-9, 4, decays.shape[-1]).expand_as(decays))
    model.save_pretrained(tmp_path)
    graph = tiny.build(source, tmp_path)
    (row,) = tiny.prompts([257])
    wanted = tiny.expected(model, row)
    for engine in tiny.ENGINES:
        (found,) = Built(tmp_path, graph, model, engine).start(1).add([row])
        assert np.abs(found - wanted).max() <= 10 * EXACT, engine


@pytest.mark.parametrize("engine", tiny.ENGINES)
def test_softplus_keeps_its_digits(tmp_path: Path, engine: str) -> None:
    """Where it is next to nothing too: there a small step is what a state space is made of."""
    with Draft(tmp_path / "model.onnx") as draft:
        value = softplus(draft, draft.input("x", "float32", ("n",)), name="y")
        draft.output("y", value, ("n",))
        draft.write("softplus")
    x = np.linspace(-80, 80, 4001).astype(np.float32)
    found = tiny.ENGINES[engine](tmp_path / "model.onnx")({"x": x})["y"]
    np.testing.assert_allclose(found, np.logaddexp(0, x.astype(np.float64)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "group"), [("int4", 32), ("int8", None)])
@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("mamba", {"time_step_rank": 16, "tie_word_embeddings": False, "use_bias": True}),
        ("falcon_mamba", {"time_step_rank": 4}),
        ("mamba2", {"num_heads": 8}),
        ("lfm2", {"tie_word_embeddings": True}),
        ("falcon_h1", EXACT_FACTORS | BIASES),
    ],
)
def test_quantized_weights_are_those_of_the_blocks(
    tmp_path: Path, arch: str, changes: dict[str, Any], weights: str, group: int | None
) -> None:
    """Against transformers with the same dequantized weights in it: nothing is lost but what rounding loses."""
    source, model = tiny.trained(tmp_path, arch, **changes)
    graph = tiny.build(source, tmp_path, Recipe(weights=weights, group_size=group, method="rtn"))
    put_back(model, weights, group)
    (row,) = tiny.prompts([12])
    for engine in tiny.ENGINES:
        text = Built(tmp_path, graph, model, engine).start(1)
        found = np.concatenate([text.add([row[:9]])[0], text.add([row[9:]])[0]])
        assert np.abs(found - tiny.expected(model, row)).max() <= EXACT, engine


def put_back(model: Any, weights: str, group: int | None) -> None:
    """Each matrix of the torch model through int4 or int8 and back."""
    import torch

    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            inputs = parameter.shape[-1]
            if parameter.dim() != 2 or "A_log" in name or ("dt_proj" in name and inputs < 16):
                continue
            block = min(group or inputs, 16) if "dt_proj" in name else group or inputs
            bits = 8 if "embed" in name and not tied else blocks.BITS[weights]
            values, scale = blocks.quantize(parameter.numpy(), bits, block, 1)
            parameter.copy_(torch.from_numpy(blocks.dequantize(values, scale, 1)))


@pytest.mark.parametrize("arch", tiny.OWN)
def test_small_tensors_stay_whole(tmp_path: Path, arch: str) -> None:
    """Decays, skips, time steps' biases and convolutions are float32 whatever the recipe."""
    source = tiny.as_source(tmp_path, tiny.config_of(arch), random=True)
    tiny.build(source, tmp_path, Recipe("int4", group_size=32, method="rtn"))
    model = onnx.load(tmp_path / "model.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    small = [
        name for name in kinds if any(part in name for part in ("A_log", ".D", "dt_bias", "conv.weight", "conv1d"))
    ]
    assert small
    assert {kinds[name] for name in small} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.INT4 in kinds.values()


# What is said of it


@pytest.mark.parametrize("name", CASES)
def test_settings_tell_what_a_text_takes(tmp_path: Path, name: str) -> None:
    arch, changes = CASES[name]
    source = tiny.as_source(tmp_path, tiny.config_of(arch, **changes), random=True)
    told, graph = tiny.exporter(arch).settings(source, "text-generation", tmp_path), tiny.build(source, tmp_path)
    zeros = tiny.nothing_yet(graph, 1)
    fixed = [state for state in graph.states if state.axis is None]
    assert told["state_bytes"] == sum(zeros[state.into].nbytes for state in fixed) > 0
    growing = {state.into for state in graph.states if state.axis == 2}
    layers = told["attention_layers"]
    assert growing == {f"past_key_values.{layer}.{what}" for layer in layers for what in ("key", "value")}
    if growing:
        shapes = {zeros[name].shape for name in growing}
        assert shapes == {(1, told["kv_heads"], 0, told["head_dim"])}
    assert told["layers"] == len(told["windows"]) == changes.get("num_hidden_layers", 2)
    assert told["context_length"] >= 128


@pytest.mark.parametrize("arch", tiny.OWN)
def test_the_reference_is_fed_what_the_graph_takes(tmp_path: Path, arch: str) -> None:
    source, model = tiny.trained(tmp_path, arch)
    graph = tiny.build(source, tmp_path)
    (row,) = tiny.prompts([7])
    given = feeds(graph, [row], [[6, 2]])
    assert list(given) == [port.name for port in graph.inputs]
    found = tiny.onnxruntime(tmp_path / graph.path)(given)["logits"][0]
    assert np.abs(found - tiny.expected(model, row)[[6, 2]]).max() <= EXACT


# What is refused


@pytest.mark.parametrize(
    ("arch", "changes", "error", "why"),
    [
        ("mamba", {"state_size": 0}, BundleError, "state_size is 0, not a whole number from 1"),
        ("mamba", {"conv_kernel": 1}, BundleError, "conv_kernel is 1, not a whole number from 2"),
        ("mamba", {"time_step_rank": "all"}, BundleError, "time_step_rank is 'all', not a whole number"),
        ("mamba", {"intermediate_size": None, "expand": 1.5}, BundleError, "expand is 1.5, not a whole number"),
        ("mamba", {"hidden_act": "quick_gelu"}, UnsupportedError, "activation 'quick_gelu' is not known"),
        ("mamba", {"use_conv_bias": 1}, BundleError, "use_conv_bias is 1, not true or false"),
        ("falcon_mamba", {"mixer_rms_eps": None}, BundleError, "has no 'mixer_rms_eps'"),
        ("mamba2", {"num_heads": 7}, BundleError, "7 heads of 16 in 2 groups are not 128 channels"),
        ("mamba2", {"n_groups": 3}, BundleError, "8 heads of 16 in 3 groups are not 128 channels"),
        ("mamba2", {"time_step_limit": [0.1]}, BundleError, r"time_step_limit is \[0.1\], not a list of 2 numbers"),
        ("mamba2", {"time_step_limit": [0.1, True]}, BundleError, "not a list of 2 numbers"),
        ("mamba2", {"time_step_limit": 1}, BundleError, "time_step_limit is 1, not a list of 2 numbers"),
        ("mamba2", {"time_step_limit": [0, float("nan")]}, BundleError, "not a list of 2 numbers"),
        ("lfm2", {"layer_types": ["conv", "linear_attention"]}, UnsupportedError, "'linear_attention' are not known"),
        ("lfm2", {"layer_types": ["conv"]}, BundleError, "a list of 2, one for each layer"),
        ("lfm2", {"layer_types": None, "full_attn_idxs": [0, "1"]}, BundleError, "not a list of numbers"),
        ("lfm2", {"conv_L_cache": 1}, BundleError, "conv_L_cache is 1, not a whole number from 2"),
        ("lfm2", {"block_ffn_dim_multiplier": 0}, BundleError, "block_ffn_dim_multiplier is 0.0, not a number above 0"),
        ("falcon_h1", {"ssm_multipliers": [1, 1]}, BundleError, r"ssm_multipliers is \[1, 1\], not a list of 5"),
        ("falcon_h1", {"mlp_multipliers": [1, float("inf")]}, BundleError, "not a list of 2 numbers"),
        ("falcon_h1", {"lm_head_multiplier": 0}, BundleError, "lm_head_multiplier is 0.0, not a number above 0"),
        ("falcon_h1", {"key_multiplier": None}, BundleError, "has no 'key_multiplier'"),
        ("falcon_h1", {"mamba_n_heads": 5}, BundleError, "5 heads of 16 in 1 groups are not 96 channels"),
    ],
)
def test_a_config_that_makes_no_sense(tmp_path: Path, arch: str, changes: dict[str, Any], error: Any, why: str) -> None:
    source = tiny.as_source(tmp_path, tiny.config_of(arch, **changes), random=True)
    with pytest.raises(error, match=why) as caught:
        tiny.build(source, tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "model.onnx").exists()


def test_a_layer_is_found_by_its_number_or_its_type(tmp_path: Path) -> None:
    """Configs of before list the layers with attention; with neither list, all have it."""

    def attending(**told: Any) -> tuple[int, ...]:
        config = tiny.config_of("lfm2", **{"layer_types": None, **told})
        return read(tiny.exporter("lfm2"), tiny.as_source(tmp_path, config)).attending

    assert attending(full_attn_idxs=[1, 5]) == (1,)
    assert attending() == (0, 1)
    assert attending(layer_types=["full_attention", "conv"], full_attn_idxs=[1]) == (0,)


@pytest.mark.parametrize(
    ("told", "width"),
    [
        ({"intermediate_size": 96, "block_auto_adjust_ff_dim": False}, 96),
        ({"intermediate_size": 96, "block_multiple_of": 32}, 64),
        ({"intermediate_size": 97, "block_multiple_of": 50, "block_ffn_dim_multiplier": 1.5}, 100),
        ({"intermediate_size": 96, "block_ff_dim": 384}, 256),
    ],
)
def test_the_width_of_lfm2(tmp_path: Path, told: dict[str, Any], width: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**tiny.config_of("lfm2"), **told}
    layer = read(tiny.exporter("lfm2"), tiny.as_source(tmp_path, config)).layers[0]
    assert layer.mlp is not None
    assert layer.mlp.up.outputs == width
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert model.model.layers[0].feed_forward.w1.out_features == width
