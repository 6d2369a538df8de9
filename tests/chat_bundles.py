"""A tiny chat model all the way to a bundle, opened on every target here: fixtures to import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_chat

import edgekit
from edgekit import registry
from edgekit.model import Model

HERE = [name for name in ("cpu", "openvino") if registry.find("targets", name).probe().available]
HELLO = [{"role": "user", "content": "one two"}]
MORE = [{"role": "user", "content": "three"}]


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "chat.ek"
    edgekit.export(str(folder), made, targets=HERE, precision=("fp32", "int8"))
    return made


@pytest.fixture(scope="module", params=HERE)
def model(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Model]:
    with edgekit.load(bundle, target=request.param, precision="fp32", threads=1) as opened:
        yield opened
