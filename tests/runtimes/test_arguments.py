"""Lone odd values given to the methods of every kind of task: our errors, and the shapes of nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import series_bundles
import small_bundles

import edgekit
from edgekit.errors import InputError, StateError, UsageError
from edgekit.runtimes import arguments
from edgekit.runtimes.heads import classes, embedding

NO_PATHS: list[Any] = [None, 3, b"bundle.ek", "a\0b", "", ["bundle.ek"]]


@pytest.mark.parametrize(
    "value", [None, 3, b"a", {"a": 1}, {"a"}, iter(["a"]), (each for each in "ab"), object(), np.float32(1)]
)
def test_what_is_not_a_list_of_texts(value: Any) -> None:
    with pytest.raises(InputError, match=r"^texts is .*not a text or a list of texts") as caught:
        arguments.items(value, "texts")
    assert caught.value.hint


@pytest.mark.parametrize("value", [["a"], ("a",), np.array(["a"])])
def test_what_is_a_list_of_texts(value: Any) -> None:
    assert arguments.items(value, "texts") == (False, ["a"])
    assert arguments.items("a", "texts") == (True, ["a"])


@pytest.mark.parametrize("value", ["8", 1.5, 0, -1, True, [3], np.float32(3)])
def test_what_is_not_a_number_of_answers(value: Any) -> None:
    for check in (classes.check_top_k, lambda each: arguments.count(each, "n", "hint")):
        with pytest.raises(InputError):
            check(value)
    with pytest.raises(InputError, match="dimensions is"):
        embedding.answers([], (), {"width": 8, "dimensions": value})


def test_whole_numbers_of_numpy_are_taken() -> None:
    assert arguments.count(np.int32(3), "top_k", "") == 3
    assert arguments.count(None, "top_k", "") is None


@pytest.mark.parametrize("prompt", [12, b"query", ["query"]])
def test_the_name_of_a_prompt_is_a_text(prompt: Any) -> None:
    with pytest.raises(InputError, match="prompt is"):
        arguments.text(prompt, "prompt")


def test_vectors_of_nothing_have_their_width() -> None:
    assert embedding.answers([], (), {"width": 8}).shape == (0, 8)
    assert embedding.answers([], (), {"width": 8, "dimensions": 3}).shape == (0, 3)
    assert embedding.answers([], (), {"width": 0, "dimensions": 3}).shape == (0, 3)
    with pytest.raises(InputError, match="8 numbers to 9"):
        embedding.answers([], (), {"width": 8, "dimensions": 9})


@pytest.mark.parametrize("value", NO_PATHS)
@pytest.mark.parametrize(
    "call",
    [
        edgekit.load,
        edgekit.verify,
        lambda path: edgekit.export("zoo:motor", path),
    ],
    ids=["load", "verify", "export"],
)
def test_what_is_not_a_path(call: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(UsageError, match="not a path"):
        call(value)


@pytest.mark.parametrize("call", [edgekit.load, edgekit.verify, lambda path: edgekit.export("zoo:motor", path)])
def test_a_path_that_is_not_unicode(call: Callable[[Any], Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not UTF-8") as caught:
        call(os.fsdecode(bytes(tmp_path) + b"/\xff.ek"))
    assert "rename" in caught.value.hint


@pytest.mark.parametrize("limit", ["1G", 1.5, 0, -1, True])
def test_a_limit_that_is_not_a_number_of_bytes(limit: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memory_limit is") as caught:
        edgekit.load(tmp_path, memory_limit=limit)
    assert "1 << 30" in caught.value.hint
    with pytest.raises(UsageError, match="memory_limit is"):
        edgekit.export("zoo:motor", tmp_path / "x.ek", memory_limit=limit)
    with pytest.raises(UsageError, match="threads is"):
        edgekit.load(tmp_path, threads=limit)


METHODS = {
    "feature-extraction": ("embed", "similarity", "rerank"),
    "text-classification": ("classify",),
    "text-ranking": ("rerank",),
    "token-classification": ("tag",),
    "fill-mask": ("fill",),
}


@pytest.mark.parametrize("task", METHODS)
def test_every_method_on_texts_refuses_what_is_none(tmp_path: Path, task: str) -> None:
    with edgekit.load(small_bundles.make(tmp_path / "x.ek", task)) as model:
        for name in METHODS[task]:
            method = getattr(model, name)
            before = ("a",) if name in ("similarity", "rerank") else ()
            for value in (None, 3, b"a", iter(["a"]), {"a": 1}, [None], [3], [["a", "b", "c"]]):
                with pytest.raises(InputError):
                    method(*before, value)
            if before:
                with pytest.raises(InputError):
                    method(None, ["a"])


@pytest.mark.parametrize("task", METHODS)
def test_nothing_gives_nothing(tmp_path: Path, task: str) -> None:
    with edgekit.load(small_bundles.make(tmp_path / "x.ek", task)) as model:
        if task == "feature-extraction":
            assert model.embed([]).shape == (0, 6)
            assert model.embed([], dimensions=3).shape == (0, 3)
            assert model.similarity([], ["a", "b"]).shape == (0, 2)
            assert model.rerank("a", []) == []
        elif task == "text-ranking":
            assert model.rerank("a", []) == []
        else:
            assert getattr(model, METHODS[task][0])([]) == []


def test_odd_options_of_embed(tmp_path: Path) -> None:
    with edgekit.load(small_bundles.make(tmp_path / "x.ek")) as model:
        for options in ({"dimensions": "8"}, {"dimensions": 1.5}, {"dimensions": True}, {"prompt": 12}):
            for texts in ("a", []):
                with pytest.raises(InputError):
                    model.embed(texts, **options)


@pytest.mark.parametrize("sample", [10**400, [10**400, 0.0], "1", None, b"1"])
def test_samples_that_are_not_numbers(tmp_path: Path, sample: Any) -> None:
    with edgekit.load(series_bundles.make(tmp_path / "x.ek", "values")) as model:
        for call in (model.step, model.predict, lambda value: list(model.stream([value]))):
            with pytest.raises(InputError):
                call(sample)


@pytest.mark.parametrize("place", [None, 3, b"state", "a\0b"])
def test_states_are_saved_to_paths_and_loaded_from_paths_or_bytes(tmp_path: Path, place: Any) -> None:
    with edgekit.load(series_bundles.make(tmp_path / "x.ek", "values")) as model, model.session() as session:
        if place is not None:  # then save() only returns the bytes
            with pytest.raises(UsageError, match="not a path"):
                session.save(place)
        with pytest.raises(StateError if isinstance(place, bytes) else UsageError, match=r"not a (path|saved stream)"):
            session.load(place)
