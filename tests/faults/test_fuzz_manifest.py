"""Manifests that are changed at random and signed again: an error of ours, or a bundle that loads and runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import edited_manifest
import numpy as np
import pytest
import series_bundles
import small_bundles
from chat_bundles import bundle as bundle
from chat_bundles import folder as folder
from mutated_json import mutated
from property_tests import cases

import edgekit
from edgekit.errors import EdgeKitError
from edgekit.model import Model, load
from edgekit.verify import check

TEXTS = ["a text", ""]
SERIES = [series_bundles.series(7), series_bundles.series(1)]


def use(model: Model) -> None:
    """Whatever the task does, and the comparison with its goldens."""
    items: Any = {"series": SERIES, "text": TEXTS, "query": [("a", "b")], "chat": "one two"}[model.INPUT]
    if model.bundle.task == "fill-mask":
        items = [f"{model.settings['mask_token']} is"]
    options = {"max_new_tokens": 3} if model.INPUT == "chat" else {}
    method: Callable[..., Any] = getattr(model, model.methods[0])
    if model.bundle.task == "text-ranking":
        model.rerank("a", ["b", "c"])
        return
    if model.methods[0] == "step":
        for row in SERIES[0]:
            model.step(row)
    else:
        method(items, **options)
    list(model.run(items, **options))
    if model.INPUT == "series" and "stream" in model.methods:
        list(model.stream(iter(SERIES[0])))
    if model.bundle.goldens is not None:
        check(model)


def survives(folder: Path, document: Any, seed: int) -> bool:
    """Whether a mutated manifest loads and runs; a foreign error is raised, with the seed."""
    raw = mutated(document, seed)
    edited_manifest.write(folder, json.dumps(raw).encode("utf-8", "surrogatepass"), raw)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), load(folder, threads=1, verify="never") as model:
            warnings.simplefilter("ignore")
            use(model)
    except EdgeKitError as error:
        error.message.encode()
        return False
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return True


def fuzz(folder: Path, first: int, count: int) -> Iterator[bool]:
    manifest = folder / "edgekit.json"
    good = json.loads(manifest.read_bytes())
    for seed in range(first, first + count):
        yield survives(folder, good, seed)
    edited_manifest.write(folder, json.dumps(good).encode(), good)
    with edgekit.load(folder, threads=1) as model:
        use(model)


@pytest.mark.parametrize("task", small_bundles.SETTINGS)
def test_fuzz_of_a_text_model(tmp_path: Path, task: str) -> None:
    made = small_bundles.make(tmp_path / "x.ek", task, goldens=task == "feature-extraction")
    outcomes = list(fuzz(made, 0, cases(40, 500)))
    assert {*outcomes} == {True, False}


@pytest.mark.parametrize("head", series_bundles.SETTINGS)
def test_fuzz_of_a_series_model(tmp_path: Path, head: str) -> None:
    outcomes = list(fuzz(series_bundles.make(tmp_path / "x.ek", head), 10_000, cases(40, 500)))
    assert {*outcomes} == {True, False}


@pytest.mark.slow
def test_fuzz_of_a_language_model(bundle: Path, tmp_path: Path) -> None:
    import shutil

    made = shutil.copytree(bundle, tmp_path / "chat.ek")
    outcomes = list(fuzz(made, 20_000, cases(20, 500)))
    assert {*outcomes} == {True, False}
