"""What the tests of the commands share: a way to call one in this process, and bundles to call it on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import small_bundles

from edgekit.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """stdout, which must be one JSON object and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found


Call = Callable[..., Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command line in this process; `stdin` is bytes, or None for a closed one."""

    def run(*words: str | Path, stdin: bytes | None = None) -> Ended:
        monkeypatch.setattr("sys.stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(word) for word in words])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small bundle for each task, made when first asked for."""
    home = tmp_path_factory.mktemp("bundles")

    def made(task: str) -> Path:
        folder: Path = home / f"{task}.ek"
        return folder if folder.exists() else small_bundles.make(folder, task, goldens=task == "feature-extraction")

    return made


@pytest.fixture
def vectors(bundles: Callable[[str], Path]) -> Path:
    return bundles("feature-extraction")
