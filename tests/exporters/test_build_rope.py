"""Frequencies of rotary embeddings against transformers' own functions, in every form that a config may have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgekit.errors import BundleError, UnsupportedError
from edgekit.exporters._decoder.config import Config
from edgekit.exporters._decoder.rope import KINDS, LONGEST, context_length, parameters, rope

CONTEXT, HEAD = 4096, 64
HALF = HEAD // 2
TOLD: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 1024},
    "longrope": {
        "short_factor": [1 + n / HALF for n in range(HALF)],
        "long_factor": [1.0 + n for n in range(HALF)],
        "original_max_position_embeddings": 1024,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}
OTHERS = [
    ("yarn", {"attention_factor": 0.9, "beta_fast": 24.0, "beta_slow": 2.0, "truncate": False}),
    ("yarn", {"mscale": 0.7, "mscale_all_dim": 0.4}),
    ("yarn", {"factor": 1.0}),
    ("longrope", {"factor": 3.0}),
    ("longrope", {"factor": 1.0}),
    ("longrope", {"attention_factor": 1.25}),
]


def told(kind: str, **changes: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 500_000.0, **TOLD[kind], **changes}


def config(said: dict[str, Any], **others: Any) -> Config:
    return Config({"rope_parameters": said, "max_position_embeddings": CONTEXT, **others})


def test_every_kind_is_tested() -> None:
    assert set(TOLD) == set(KINDS)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), [*((kind, {}) for kind in TOLD), *OTHERS])
def test_frequencies_are_those_of_transformers(quiet: None, kind: str, changes: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    sizes = {"hidden_size": 4 * HEAD, "num_attention_heads": 4, "max_position_embeddings": CONTEXT}
    theirs = LlamaConfig(**sizes, rope_parameters=told(kind, **changes))
    function = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
    wanted, scale = function(theirs)
    found = rope(parameters(config(told(kind, **changes)), 10_000.0), HEAD, CONTEXT, partial=False)
    assert found.frequencies == pytest.approx(wanted.numpy(), rel=3e-7)
    assert found.frequencies.dtype == np.float32
    assert found.scale == pytest.approx(scale)
    assert found.dim == HEAD
    if found.long is not None:
        longer, _ = function(theirs, seq_len=found.switch + 1)
        assert found.long == pytest.approx(longer.numpy(), rel=3e-7)
        assert found.switch == 1024


def test_tables_hold_what_a_head_is_turned_by() -> None:
    found = rope(parameters(config(told("longrope")), 10_000.0), HEAD, CONTEXT, partial=False)
    cos, sin = found.tables(100)
    assert cos.shape == sin.shape == (100, HALF)
    angle = np.float32(99) * found.frequencies[3]
    assert cos[99, 3] == pytest.approx(found.scale * np.cos(angle), rel=1e-6)
    assert sin[99, 3] == pytest.approx(found.scale * np.sin(angle), rel=1e-6)
    assert found.scale > 1
    assert found.long is not None
    assert found.tables(100, long=True)[0][99, 3] == pytest.approx(found.scale * np.cos(np.float32(99) * found.long[3]))
    plain = rope(parameters(config(told("default")), 10_000.0), HEAD, CONTEXT, partial=False)
    assert np.array_equal(plain.tables(5)[0], plain.tables(5, long=True)[0])


@pytest.mark.parametrize("kind", TOLD)
def test_older_configs_say_the_same(kind: str) -> None:
    new = parameters(config(told(kind)), 10_000.0)
    scaling = {"type": kind, **TOLD[kind]}
    old = parameters(Config({"rope_theta": 5e5, "rope_scaling": scaling, "max_position_embeddings": CONTEXT}), 1e4)
    one, other = (rope(each, HEAD, CONTEXT, partial=False) for each in (new, old))
    assert np.array_equal(one.frequencies, other.frequencies)
    assert (one.scale, one.switch) == (other.scale, other.switch)


def test_what_a_config_leaves_out() -> None:
    said = parameters(Config({"max_position_embeddings": CONTEXT, "rope_parameters": None}), 1e6)
    assert said == {"rope_type": "default", "rope_theta": 1e6, "original_max_position_embeddings": CONTEXT}
    outside = parameters(config({"rope_type": "yarn"}, original_max_position_embeddings=128), 1e4)
    assert outside["original_max_position_embeddings"] == 128


def test_a_part_of_each_head() -> None:
    said = parameters(config(told("default", partial_rotary_factor=0.75)), 1e4)
    assert rope(said, HEAD, CONTEXT, partial=True).dim == 48
    with pytest.raises(UnsupportedError, match=r"partial_rotary_factor to 0\.75"):
        rope(said, HEAD, CONTEXT, partial=False)
    outside = parameters(config(told("default"), partial_rotary_factor=0.5), 1e4)
    assert rope(outside, HEAD, CONTEXT, partial=True).dim == 32


def test_the_context_is_what_the_model_is_made_for() -> None:
    """Qwen's instructions add yarn to a config, and leave `max_position_embeddings` as it was before."""
    assert (
        context_length(parameters(config(told("yarn", original_max_position_embeddings=4096)), 1e4), CONTEXT) == 16384
    )
    for kind in ("default", "linear", "dynamic", "llama3", "longrope"):
        assert context_length(parameters(config(told(kind)), 1e4), CONTEXT) == CONTEXT
    assert LONGEST >= 131_072  # Llama 3.1's


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        ("yes", BundleError, "rope_parameters is 'yes', not an object"),
        ({"full_attention": {}}, UnsupportedError, "a rotation for each kind of layer"),
        ({"rope_type": "spiral"}, UnsupportedError, "rotary embedding 'spiral' is not known"),
        ({"rope_type": 3}, UnsupportedError, "rotary embedding 3 is not known"),
        (told("default", rope_theta=1), BundleError, "rope_theta is 1.0, not above 1"),
        (told("default", rope_theta="much"), BundleError, "rope_theta is 'much', not a number"),
        (told("default", partial_rotary_factor=0.01), BundleError, "rotates 0 of the 64 features"),
        (told("default", partial_rotary_factor=2), BundleError, "rotates 128 of the 64 features"),
        (told("linear", factor=0), BundleError, "factor is 0.0, not a number above 0"),
        ({"rope_type": "linear"}, BundleError, "config.json has no 'factor'"),
        (told("llama3", low_freq_factor=4.0), BundleError, "high_freq_factor is not above low_freq_factor"),
        (told("yarn", factor=-1), BundleError, "factor is -1.0"),
        (told("yarn", original_max_position_embeddings=0.5), BundleError, "original_max_position_embeddings is 0.5"),
        (told("longrope", short_factor=[1.0]), BundleError, "short_factor is not a list of 32 numbers above 0"),
        (told("longrope", long_factor=[0] * HALF), BundleError, "long_factor is not a list of 32 numbers above 0"),
        (told("longrope", long_factor=None), BundleError, "long_factor is not a list of 32 numbers above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(said: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why) as caught:
        rope(parameters(config(said), 1e4), HEAD, CONTEXT, partial=True)
    assert caught.value.hint  # type: ignore[attr-defined]
