"""Folders that are kept across runs of the tests: made once, whole or not there, and gone when nobody uses them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import export_cache
import pytest
from export_cache import open_cache


def write(text: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "file").write_text(text)


def test_a_folder_is_made_once_for_this_run_and_the_next(tmp_path: Path) -> None:
    first = open_cache(tmp_path).get("a", lambda folder: write("first", folder))
    again = open_cache(tmp_path).get("a", lambda folder: write("again", folder))
    other = open_cache(tmp_path).get("b", lambda folder: write("other", folder))
    assert first == again != other
    assert [(folder / "file").read_text() for folder in (first, other)] == ["first", "other"]


def test_what_failed_on_the_way_is_made_anew(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)

    def fail(folder: Path) -> None:
        write("half", folder)
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"):
        cache.get("a", fail)
    assert (cache.get("a", lambda folder: write("whole", folder)) / "file").read_text() == "whole"


def test_another_state_of_the_sources_has_folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    (sources / "edgekit").mkdir(parents=True)
    (sources / "edgekit" / "a.py").write_text("1")
    monkeypatch.setattr(export_cache, "ROOT", sources)
    home = tmp_path / "home"
    home.mkdir()
    before = open_cache(home).get("a", lambda folder: write("before", folder))
    (sources / "edgekit" / "a.py").write_text("2")
    after = open_cache(home).get("a", lambda folder: write("after", folder))
    assert (after / "file").read_text() == "after"
    assert before.exists(), "another run may still use it"
    long_ago = time.time() - 2 * export_cache.UNUSED
    os.utime(before.parent, (long_ago, long_ago))
    open_cache(home)
    assert [folder.name for folder in home.iterdir()] == [after.parent.name]
