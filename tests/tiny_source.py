"""Folders that a source can be, of an architecture that only tests know: import `tiny_arch` to have it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit import source
from edgekit.errors import EdgeKitError

CONFIG: dict[str, Any] = {"model_type": "tiny-arch", "hidden_size": 4}


@pytest.fixture(autouse=True)
def tiny_arch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more exporter, so that these tests need no real architecture; only its file's name is ever looked at."""
    home = tmp_path_factory.mktemp("more")
    (home / "exporters").mkdir()
    (home / "exporters" / "tiny_arch.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(edgekit, "__path__", [*edgekit.__path__, str(home)])


def tensor_file(data: bytes = bytes(8)) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def model(folder: Path, config: dict[str, Any] | None = None, code: str = "") -> Path:
    """A folder that an export can take; `code` becomes the two Python files that a repository may bring along."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "model.safetensors").write_bytes(tensor_file())
    for name in ("modeling_evil.py", "configuration_evil.py") if code else ():
        (folder / name).write_text(code)
    return folder


def refusal(kind: type[EdgeKitError], name: str, **options: Any) -> EdgeKitError:
    with pytest.raises(kind) as caught:
        source.resolve(name, **options)
    assert caught.value.hint
    return caught.value
