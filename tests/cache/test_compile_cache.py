"""Where engines keep what they compile, and that nothing is kept for bundles that are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.cache import compile_cache
from edgekit.core import Bundle, Graph, Recipe, Source, Variant

CPU, OPENVINO = (Variant(target, Recipe(), ()) for target in ("cpu", "openvino"))
MODEL, DECODER = (Graph(name, "model.onnx", (), ()) for name in ("model", "decoder"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekit" / "compiled"


def bundle(folder: Path) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    return Bundle(folder, Source("m", "bert", folder, "", {}), ("feature-extraction",), {}, ())


def kept(of: Bundle, variant: Variant, graph: Graph = MODEL) -> Path:
    """The graph's folder, with something in it."""
    found = compile_cache.folder(of, variant, graph)
    assert found is not None
    found.mkdir(exist_ok=True)
    (found / "blob").write_text("compiled")
    return found


def test_every_graph_of_every_variant_of_every_bundle_has_its_own(tmp_path: Path) -> None:
    one, two = bundle(tmp_path / "one.ek"), bundle(tmp_path / "two.ek")
    assert len({kept(one, CPU), kept(one, OPENVINO), kept(two, CPU), kept(one, CPU, DECODER)}) == 4
    assert (kept(one, CPU, DECODER) / "blob").exists()
    assert compile_cache.folder(one, CPU, MODEL) == kept(one, CPU)


def test_a_link_to_a_bundle_is_the_bundle(tmp_path: Path) -> None:
    one = bundle(tmp_path / "one.ek")
    (tmp_path / "link.ek").symlink_to(one.folder)
    assert compile_cache.folder(bundle(tmp_path / "link.ek"), CPU, MODEL) == compile_cache.folder(one, CPU, MODEL)


def test_what_belongs_to_bundles_that_are_gone_goes(tmp_path: Path, home: Path) -> None:
    one, two = bundle(tmp_path / "one.ek"), bundle(tmp_path / "two.ek")
    gone, stays = kept(one, CPU), kept(two, CPU)
    (home / "of an older version").mkdir()
    shutil.rmtree(one.folder)
    new = kept(two, OPENVINO)
    assert {path for path in home.iterdir() if path.is_dir()} == {stays, new}
    assert (stays / "blob").exists()
    assert not gone.with_suffix(compile_cache.NOTE).exists()


def test_a_graph_cannot_name_the_folder_of_another(tmp_path: Path) -> None:
    one, two = bundle(tmp_path / "one.ek"), bundle(tmp_path / "two.ek")
    theirs = Graph(f"{two.folder}/cpu/fp32/model", "model.onnx", (), ())
    apart = Graph("fp32/model", "model.onnx", (), ())
    assert len({kept(one, CPU, theirs), kept(one, CPU, apart), kept(one, CPU), kept(two, CPU)}) == 4


def test_graphs_of_a_bundle_that_is_gone_go_together(tmp_path: Path, home: Path) -> None:
    one, two = bundle(tmp_path / "one.ek"), bundle(tmp_path / "two.ek")
    kept(one, CPU), kept(one, CPU, DECODER)
    shutil.rmtree(one.folder)
    new = kept(two, CPU)
    assert [path for path in home.iterdir() if path.is_dir()] == [new]


def test_an_unfinished_bundle_keeps_nothing(tmp_path: Path) -> None:
    assert compile_cache.folder(bundle(tmp_path / ".one.ek.ek-tmp-0123456789abcdef"), CPU, MODEL) is None


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert compile_cache.folder(bundle(tmp_path / "one.ek"), CPU, MODEL) is None


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.cache.digests.cache_folder", lambda: None)
    assert compile_cache.folder(bundle(tmp_path / "one.ek"), CPU, MODEL) is None
