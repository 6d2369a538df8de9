"""What is taken of a config.json, and what is refused or struck out."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_source import CONFIG, model, refusal, tiny_arch

from edgekit.errors import BundleError, UnsupportedError
from edgekit.exporters._decoder.config import Config
from edgekit.source import config_json, resolve

__all__ = ["tiny_arch"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[]", "not an object"),
        (b"{", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b'{"a": ["\\ud83d"]}', "lone surrogate"),
        (b'{"\\uDE00": 1}', "lone surrogate"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "deeper"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"model_type": 3}', "not a name"),
        (b'{"model_type": "../bert"}', "not a name"),
        (b" " * (config_json.MAX_BYTES + 1), "longer than"),
    ],
)
def test_bad_configs(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    assert why in refusal(BundleError, f"random:{tmp_path}").message


def test_config_that_is_no_readable_file(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "not a regular file" in refusal(BundleError, str(folder)).message
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/proc/self/mem")  # reading its first page is an I/O error
    assert "cannot be read" in refusal(BundleError, str(folder)).message


def test_infinity_in_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "tiny-arch", "time_step_limit": [0.0, Infinity]}')
    assert resolve.resolve(f"random:{tmp_path}").config["time_step_limit"] == [0.0, float("inf")]


def test_no_model_type(tmp_path: Path) -> None:
    assert "save_pretrained" in refusal(UnsupportedError, str(model(tmp_path / "tiny", {"hidden_size": 4}))).hint


def test_architecture() -> None:
    assert resolve.architecture({"model_type": "tiny-arch"}) == "tiny_arch"
    with pytest.raises(UnsupportedError, match="'tiny-arhc'") as caught:
        resolve.architecture({"model_type": "tiny-arhc"})
    assert "'tiny_arch'" in caught.value.hint
    with pytest.raises(UnsupportedError) as caught:
        resolve.architecture({"model_type": "zzzzzz"})
    assert "edgekit list" in caught.value.hint


HOSTILE = {
    **CONFIG,
    "auto_map": {"AutoModel": "evil/repo--modeling_evil.Evil"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "evil/kernel",
    "_name_or_path": "/home/evil",
    "__class__": "x",
    "text_config": {"hidden_size": 2, "attn_implementation": "evil/kernel", "use_kernels": True},
    "parts": [{"auto_map": {}, "depth": 1}],
}


def test_infinity_is_kept_as_transformers_writes_it(tmp_path: Path) -> None:
    """Both ways: the Mamba-2 configs on the hub hold Python's own."""
    for limit in ('{"__float__": "Infinity"}', "Infinity"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "mamba2", "time_step_limit": [0.0, {limit}]}}')
        config, removed = config_json.read(tmp_path / "config.json")
        assert Config(config).numbers("time_step_limit", 2, most=math.inf) == [0.0, math.inf]
        assert not removed


def test_what_steers_is_struck_out_by_name(tmp_path: Path) -> None:
    config, removed = config_json.read(model(tmp_path / "tiny", HOSTILE) / "config.json")
    assert config == {**CONFIG, "text_config": {"hidden_size": 2}, "parts": [{"depth": 1}]}
    assert set(removed) == {
        *("auto_map", "trust_remote_code", "_attn_implementation_internal", "_name_or_path", "__class__"),
        *("text_config.attn_implementation", "text_config.use_kernels", "parts.0.auto_map"),
    }
    assert resolve.resolve(str(tmp_path / "tiny")).config == config


def test_what_steers_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="edgekit"):
        resolve.resolve(str(model(tmp_path / "tiny", HOSTILE)))
    assert "_attn_implementation_internal" in caplog.text


@pytest.mark.parametrize(
    "value", [{"dataset": "evil/repo"}, {"a": [{"path": "..\\x"}]}, {"modules": "evil.py"}, "https://evil/x"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_quantization_that_points_away(tmp_path: Path, value: Any, nested: bool) -> None:
    bad = {"quantization_config": value}
    folder = model(tmp_path / "tiny", {**CONFIG, **({"text_config": bad} if nested else bad)})
    error = refusal(UnsupportedError, str(folder))
    assert error.exit_code == 4
    assert "quantization_config" in error.message
