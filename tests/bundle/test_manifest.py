from __future__ import annotations

import errno
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import edited_manifest
import pytest
from edited_manifest import edit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import cases
from stub_export import describe, fill, make_graph

from edgekit import limits
from edgekit.bundle import manifest, safe_files
from edgekit.core import Goldens, Graph, Recipe, State, Variant
from edgekit.errors import BundleError, DeviceError, EdgeKitError, UsageError

FLIPS = cases(50, 1000)  # of each file, with each way to verify
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekit" / "verified"


@pytest.fixture(scope="module")
def seed_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the graph is made with it")
    return make_graph(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def folder(tmp_path: Path, seed_graph: Path) -> Path:
    """A good bundle."""
    made = tmp_path / "stub.ek"
    made.mkdir()
    fill(made, seed_graph, "hello")
    return made


# Written and read


def test_what_is_written_is_read(folder: Path) -> None:
    written, found = describe(folder), manifest.read(folder)
    assert replace(found, source=written.source) == written
    assert replace(found.source, folder=written.source.folder) == written.source
    assert found.source.folder == found.folder == folder


def test_the_same_content_gives_the_same_bytes(folder: Path, seed_graph: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.ek"
    again.mkdir()
    fill(again, seed_graph, "hello")
    assert (again / "edgekit.json").read_bytes() == (folder / "edgekit.json").read_bytes()


def test_the_manifest_tells_nothing_of_the_machine(folder: Path) -> None:
    made = describe(folder)
    config = {"_name_or_path": "/home/somebody/m", "sub": {"name_or_path": "/home/x"}, "limit": [0.0, float("inf")]}
    for id, shown in (
        ("/home/somebody/models/mini", "mini"),
        ("random:/home/somebody/config.json", "random:config.json"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("zoo:speller", "zoo:speller"),
    ):
        manifest.write(replace(made, source=replace(made.source, id=id, config=config)), folder, {})
        text = (folder / "edgekit.json").read_text()
        assert "somebody" not in text
        assert "/home" not in text
        source = manifest.read(folder).source
        assert source.id == shown
        assert source.config == {"sub": {}, "limit": [0.0, {"__float__": "Infinity"}]}  # as transformers writes it


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"\$\.settings\.a is nan"),
        (2**64, r"\$\.settings\.a is an integer of more than 64 bits"),
        (b"x", r"\$\.settings\.a is a bytes"),
        ({1: "x"}, r"\$\.settings\.a has the key 1"),
        ([{"b": {1, 2}}], r"\$\.settings\.a\[0\]\.b is a set"),
        ("\ud800", r"\$\.settings\.a is not Unicode"),
        ({"\udfff": 1}, r"\$\.settings\.a is not Unicode"),
    ],
)
def test_settings_are_json_values_only(folder: Path, value: object, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        manifest.write(replace(describe(folder), settings={"a": value}), folder, {})


def test_a_manifest_that_could_not_be_read_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "edgekit.json").read_bytes()
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 200)
    with pytest.raises(BundleError, match="200 are allowed"):
        manifest.write(describe(folder), folder, {})
    assert (folder / "edgekit.json").read_bytes() == before


def test_links_are_not_bundled(folder: Path) -> None:
    (folder / "link").symlink_to("tokenizer.json")
    with pytest.raises(BundleError, match="symbolic link"):
        manifest.write(describe(folder), folder, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: replace(b, variants=()), r"\$\.variants must be one or more"),
        (lambda b: replace(b, variants=b.variants * 2), r"\$\.variants must be one or more of different names"),
        (lambda b: _with_graph(b, path="none.onnx"), r"graphs\[0\]\.path is 'none\.onnx'"),
        (lambda b: _with_graph(b, path="tokenizer.json"), r"graphs\[0\]\.path is 'tokenizer\.json', not an \.onnx"),
        (lambda b: _with_graph(b, states=(State("x", "none"),)), "the graph has no such ports"),
        (lambda b: _with_graph(b, states=(State("x", "y", axis=2),)), "grows along axis 2"),
        (lambda b: replace(b, goldens=Goldens((), "none.npz", {}, {})), r"\$\.goldens\.file"),
        (lambda b: replace(b, goldens=Goldens((), "tokenizer.json", {"tpu/fp32": 0.1}, {})), "tolerances are of"),
    ],
)
def test_names_must_mean_something(folder: Path, change: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        manifest.write(change(describe(folder)), folder, {})


def test_a_state_may_be_held_and_a_graph_says_its_kind(folder: Path) -> None:
    held = _with_graph(describe(folder), states=(State("x"),), kind="stream")
    manifest.write(held, folder, {})
    assert manifest.read(folder).variants == held.variants
    with pytest.raises(ValueError, match="a graph of kind 'encoder': known are plain, decoder, stream"):
        _with_graph(describe(folder), kind="encoder")
    edit(folder, lambda raw: raw["variants"][0]["graphs"][0].update(kind="encoder"))
    with pytest.raises(BundleError, match="a graph of kind 'encoder'"):
        manifest.read(folder)


def _with_graph(made: manifest.Bundle, **changes: Any) -> manifest.Bundle:
    graph: Graph = replace(made.variants[0].graphs[0], **changes)
    return replace(made, variants=(Variant("cpu", Recipe(), (graph,)),))


def test_goldens_come_back(folder: Path) -> None:
    goldens = Goldens(("eins", ["zwei"]), "tokenizer.json", {"cpu/int4-g32-rtn": 0.01}, {"cpu/int4-g32-rtn": 0.1})
    manifest.write(replace(describe(folder), goldens=goldens), folder, {})
    assert manifest.read(folder).goldens == goldens


def test_size_on_disk(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert manifest.file_bytes(manifest.read(folder)) == sum(sizes)


def test_reading_is_light(folder: Path) -> None:
    code = (
        "import sys, pathlib, edgekit.bundle.manifest as b; b.read(pathlib.Path(sys.argv[1]));"
        "print([m for m in ('onnx', 'onnxruntime', 'openvino', 'tokenizers', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The manifest's own digest


def test_a_bundle_can_be_checked_without_edgekit(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", "edgekit.sha256"], cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{name}: OK" for name in ("edgekit.json", "cpu/model.onnx", "cpu/weights.bin", "tokenizer.json")
    ]
    assert done.returncode == 0


@pytest.mark.parametrize("verify", ["always", "once", "never"])
@pytest.mark.parametrize("name", ["edgekit.json", "edgekit.sha256"])
def test_no_flipped_bit_is_accepted(folder: Path, name: str, verify: manifest.Verify) -> None:
    path, flips = folder / name, random.Random(0)
    good = path.read_bytes()
    for _ in range(FLIPS):
        bit = flips.randrange(len(good) * 8)
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(BundleError, match=r"edgekit\.(json has changed|sha256 names other)") as caught:
            manifest.read(folder, verify=verify)
        assert "export the model again" in caught.value.hint


def test_a_manifest_without_its_digest(folder: Path) -> None:
    (folder / "edgekit.sha256").unlink()
    with pytest.raises(BundleError, match=r"edgekit\.sha256 is missing") as caught:
        manifest.read(folder)
    assert "copy the whole folder" in caught.value.hint
    raw = json.loads((folder / "edgekit.json").read_bytes())
    (folder / "edgekit.json").write_text(json.dumps(raw | {"format": 2}))
    with pytest.raises(BundleError, match="has format 2, which edgekit"):
        manifest.read(folder)


def test_the_digests_must_be_those_of_the_manifest(folder: Path) -> None:
    path = folder / "edgekit.sha256"
    good = path.read_text()
    for bad in (good + good.splitlines()[1] + "\n", good.rstrip("\n"), good.replace("tokenizer", "Tokenizer")):
        path.write_text(bad)
        with pytest.raises(BundleError, match="names other files or digests"):
            manifest.read(folder)


def test_a_wish_to_verify_that_is_not_one(folder: Path) -> None:
    with pytest.raises(UsageError, match="verify is 'maybe'") as caught:
        manifest.read(folder, verify="maybe")  # type: ignore[arg-type]
    assert "always, once, never" in caught.value.hint


# B1: files that changed

WOUNDS: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 2),
    "extended": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "link": lambda path: (path.rename(path.with_name("away")), path.symlink_to("away")),
}


@pytest.mark.parametrize(
    "name", ["cpu/model.onnx", "cpu/weights.bin", "tokenizer.json", "edgekit.json", "edgekit.sha256"]
)
@pytest.mark.parametrize("wound", WOUNDS)
def test_a_changed_file_is_named(folder: Path, name: str, wound: str) -> None:
    manifest.read(folder)
    WOUNDS[wound](folder / name)
    with pytest.raises(BundleError, match=name) as caught:
        manifest.read(folder)
    assert caught.value.exit_code == 6
    if wound == "flipped" and not name.startswith("edgekit"):
        assert len(str(caught.value.details["expected"])) == len(str(caught.value.details["actual"])) == 64


def test_an_extra_file_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cpu" / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING, "edgekit"):
        manifest.read(folder)
    assert "notes.txt" in caplog.text


def test_a_hub_cache_full_of_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert manifest.read(tmp_path / "alias").folder == folder
    (tmp_path / "blob").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "blob")
    with pytest.raises(BundleError, match="symbolic link") as caught:
        manifest.read(folder)
    assert "cp -rL" in caught.value.hint


def test_a_hard_link_needs_its_digest(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "cpu" / "weights.bin", tmp_path / "elsewhere")
    manifest.read(folder, verify="always")
    with pytest.raises(BundleError, match="hard link"):
        manifest.read(folder, verify="never")


# B4: manifests that lie


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format=manifest.FORMAT + 1), "needs a newer edgekit"),
        (lambda raw: raw.update(format=1), "has format 1, which edgekit .* does not read"),
        (lambda raw: raw.update(format=0), r"\$\.format is 0"),
        (lambda raw: raw.update(format="1"), r"\$\.format is '1'"),
        (lambda raw: raw.update(format=True), r"\$\.format is True"),
        (lambda raw: raw.pop("format"), r"\$\.format is None"),
        (lambda raw: raw.pop("tasks"), "missing required field `tasks`"),
        (lambda raw: raw.update(more=1), "unknown field `more`"),
        (lambda raw: raw["source"].update(folder="/x"), r"unknown field `folder` - at `\$\.source`"),
        (lambda raw: raw["variants"][0].update(more=1), r"\$\.variants\[0\]\.more is a key"),
        (lambda raw: raw["variants"][0]["graphs"][0]["states"][0].update(more=1), r"states\[0\]\.more is a key"),
        (lambda raw: raw.update(tasks="x"), r"Expected `array`, got `str` - at `\$\.tasks`"),
        (lambda raw: raw.update(tasks=[]), r"\$\.tasks must be one or more different tasks"),
        (lambda raw: raw.update(tasks=["a", "a"]), r"\$\.tasks must be one or more different tasks"),
        (lambda raw: raw["variants"][0].update(graphs=[]), r"graphs must be one or more of different names"),
        (lambda raw: raw["variants"][0].update(graphs=raw["variants"][0]["graphs"] * 2), r"\['model', 'model'\]"),
        (lambda raw: raw["variants"][0]["graphs"][0].update(kind="loop"), "a graph of kind 'loop'"),
        (
            lambda raw: raw["variants"][0]["recipe"].update(group_size="32"),
            r"at `\$\.variants\[0\]\.recipe\.group_size",
        ),
        (lambda raw: raw["variants"][0]["recipe"].update(group_size=-1), "a group of -1 weights"),
        (
            lambda raw: raw["settings"].update(normalhze=True),
            "the setting 'normalhze' is not one of feature-extraction",
        ),
        (lambda raw: raw["settings"].pop("pooling"), "missing required field `pooling`"),
        (
            lambda raw: raw["settings"].update(normalize="no"),
            r"Expected `bool`, got `str` - at `\$\.settings\.normalize",
        ),
        (
            lambda raw: raw["variants"][0]["measured"].update(loss=-1.0),
            r"variants\[0\]\.measured: Expected `float` >= 0",
        ),
        (lambda raw: raw["variants"][0]["compiled"].update(engne="x"), r"variants\[0\]\.compiled: .*unknown field"),
        (lambda raw: raw["variants"][0]["graphs"][0]["inputs"][0].update(shape=["batch", 5]), r"shape \(None, 4\) in"),
        (lambda raw: raw["variants"][0]["graphs"][0]["outputs"][0].update(shape=[1, 4]), r"shape \(None, 4\) in the"),
        (lambda raw: raw["variants"][0]["graphs"][0]["states"].append({"into": "x"}), "two states share a port"),
        (lambda raw: raw["variants"][0]["graphs"][0].update(kind="decoder"), "a decoder without a port 'input_ids'"),
        (lambda raw: raw["settings"].update(big=2**70), r"\$\.settings\.big is an integer"),
        (lambda raw: raw["settings"].update(text="\ud800"), "half a character"),
        (lambda raw: raw["files"].update({"../x": raw["files"]["tokenizer.json"]}), "unsafe path '../x'"),
        (lambda raw: raw["files"].update({"/etc/passwd": raw["files"]["tokenizer.json"]}), "unsafe path"),
        (
            lambda raw: raw["files"].update({"Tokenizer.json": raw["files"]["tokenizer.json"]}),
            "one file on some systems",
        ),
        (lambda raw: raw["files"].update({"edgekit.json": raw["files"]["tokenizer.json"]}), "names other files"),
        (lambda raw: raw["files"].update({"none": raw["files"]["tokenizer.json"]}), "none is missing"),
        (lambda raw: raw["files"]["tokenizer.json"].update(size=-1), r"\$\.files\[\.\.\.\]\.size"),
        (lambda raw: raw["files"]["tokenizer.json"].update(sha256="AB" * 32), r"\$\.files\[\.\.\.\]\.sha256"),
        (lambda raw: raw["files"]["tokenizer.json"].update(sha256="0" * 64 + "\n"), r"\$\.files\[\.\.\.\]\.sha256"),
        (lambda raw: raw["files"].pop("cpu/model.onnx"), r"graphs\[0\]\.path is 'cpu/model\.onnx'"),
        (lambda raw: raw["files"].pop("cpu/weights.bin"), "is not a file of this bundle"),
        (lambda raw: raw["variants"][0]["graphs"][0]["inputs"][0].update(dtype="int64"), "has the ports"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(folder: Path, change: Edit, message: str) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        manifest.read(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xef\xbb\xbf{}",
        '{"format": 1}'.encode("utf-16"),
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b'{"format": 1, "settings": NaN}',
        b'{"format": 1, "settings": 1e999}',
        b'{"format": 1, "a": ' + b"9" * 5000 + b"}",
        b'{"format": 1, "a": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"format": 1, "a": ' + b"[" * 100_000,
        b'{"format": 1, "a": "\xff"}',
        b'{"format": 1, "a": "' + b"x" * limits.MANIFEST_BYTES + b'"}',
    ],
    ids=lambda data: ascii(data[:24]),
)
def test_what_is_no_proper_json(folder: Path, data: bytes) -> None:
    edited_manifest.write(folder, data)
    with pytest.raises(BundleError, match=r"edgekit\.json"):
        manifest.read(folder)


def test_a_manifest_of_a_gigabyte_is_not_read(folder: Path) -> None:
    os.truncate(folder / "edgekit.json", 1 << 30)  # sparse
    with pytest.raises(BundleError, match="more than 1048576 bytes"):
        manifest.read(folder)


def _paths(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [path, *(found for key, item in items for found in _paths(item, (*path, key)))] if path or items else [path]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["../x", "a\0b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_is_refused_or_harmless(data: st.DataObject, folder: Path) -> None:
    good = (folder / "edgekit.json").read_bytes()
    raw = json.loads(good)
    *way, last = data.draw(st.sampled_from([path for path in _paths(raw) if path]))
    place = raw
    for step in way:
        place = place[step]
    place[last] = data.draw(JSON)
    edited_manifest.write(folder, json.dumps(raw).encode(), raw)
    try:
        found = manifest.read(folder, verify="never")
        assert found.variants
    except EdgeKitError as error:
        error.message.encode("utf-8")
    finally:
        edited_manifest.write(folder, good, json.loads(good))


# B7, and paths that are no bundle


def test_a_graph_that_is_too_new(folder: Path) -> None:
    path = folder / "cpu" / "model.onnx"
    path.write_bytes(b"\x08\x63" + path.read_bytes()[2:])  # ir_version: 99
    manifest.write(describe(folder), folder, {})
    with pytest.raises(DeviceError, match="needs ONNX IR version 99") as caught:
        manifest.read(folder)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    ("make", "what", "hint"),
    [
        (lambda path: None, "does not exist", "edgekit export MODEL"),
        (lambda path: path.write_bytes(b"x"), "is a file", "edgekit export"),
        (lambda path: path.mkdir(), "is empty", "edgekit export wrote"),
        (lambda path: (path.mkdir(), (path / "config.json").touch()), "a Hugging Face model", "edgekit export"),
        (lambda path: (path.mkdir(), (path / "m.onnx").touch()), "has a graph", "edgekit export FILE.onnx"),
        (lambda path: (path.mkdir(), (path / "x").touch()), r"has no edgekit\.json", "edgekit export wrote"),
        (lambda path: path.symlink_to(path), "does not exist", "edgekit export MODEL"),
    ],
)
def test_what_is_no_bundle_says_what_it_is(tmp_path: Path, make: Any, what: str, hint: str) -> None:
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(BundleError, match=what) as caught:
        manifest.read(path)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("zoo:speaker", "edgekit export zoo:speaker -o speaker.ek"), ("random:a/b.json", "random:a/b.json -o b.ek")],
)
def test_a_model_in_place_of_a_bundle_is_named_as_it_was_typed(typed: str, hint: str) -> None:
    with pytest.raises(BundleError, match=f"^{typed} is a model, not a bundle") as caught:
        manifest.read(Path(typed))
    assert hint in caught.value.hint


def test_a_name_that_does_not_exist_is_shown_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"^none\.ek does not exist"):
        manifest.read(Path("none.ek"))


def test_an_export_that_did_not_end(folder: Path, tmp_path: Path) -> None:
    left = folder.rename(tmp_path / ".stub.ek.ek-tmp-0123456789abcdef")
    (left / "edgekit.json").unlink()
    with pytest.raises(BundleError, match="an unfinished export"):
        manifest.read(left)


def test_a_disk_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(safe_files, "sha256", fail)
    with pytest.raises(BundleError, match="cannot be read: Input/output error"):
        manifest.read(folder)


def test_a_bundle_that_is_never_at_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = safe_files.walk

    def touch(root: Path) -> Any:
        os.utime(root)
        return walk(root)

    monkeypatch.setattr(safe_files, "walk", touch)
    with pytest.raises(BundleError, match="replaced several times"):
        manifest.read(folder)
