"""What `edgekit run` reads for a model of images: files, folders and stdin, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import Call, bundles, call, vectors
from task_files import MakeTask, make_task

from edgekit import registry
from edgekit.cli import inputs

__all__ = ["bundles", "call", "make_task", "vectors"]

SIZE = """
    INPUT = "image"
    METHODS = ("classify",)

    def classify(self, images, *, top_k=2):
        sizes = [len(image) if isinstance(image, bytes) else image.stat().st_size for image in images]
        return [[Label("bytes", size), Label("more", 0)][:top_k] for size in sizes]
"""
folders = pytest.mark.skipif("image" not in registry.names("ingest"), reason="images cannot be read yet")


@pytest.fixture
def sizes(make_task: MakeTask) -> Path:
    """A bundle whose model labels an image with the size of its file."""
    return make_task("image-size", SIZE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("b.png", 2), ("a.jpg", 1), ("c.txt", 9)):
        (folder / name).write_bytes(b"x" * size)
    return folder


def test_one_image_has_labels_only(call: Call, sizes: Path, photos: Path) -> None:
    for words in (("-i", photos / "b.png"), (photos / "b.png",)):
        ended = call("run", sizes, *words)
        assert (ended.code, ended.out, ended.err) == (0, "bytes 2.0000\tmore 0.0000\n", "")


def test_several_images_have_names(call: Call, sizes: Path, photos: Path) -> None:
    ended = call("run", sizes, "-i", photos / "b.png", "--image", photos / "a.jpg", "--top-k", "1", "-v")
    assert ended.out == "b.png\tbytes 2.0000\na.jpg\tbytes 1.0000\n"
    assert "2 images in" in ended.err


def test_images_of_the_same_name_have_paths(call: Call, sizes: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"xyz")
    out = call("run", sizes, photos / "b.png", tmp_path / "b.png", "--top-k", "1").out
    assert out == f"{photos / 'b.png'}\tbytes 2.0000\n{tmp_path / 'b.png'}\tbytes 3.0000\n"


@folders
def test_a_folder_is_its_images_sorted(call: Call, sizes: Path, photos: Path) -> None:
    for words in (("-i", photos), (photos,)):
        assert call("run", sizes, *words, "--top-k", "1").out == "a.jpg\tbytes 1.0000\nb.png\tbytes 2.0000\n"


@folders
def test_a_folder_without_images(call: Call, sizes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = call("run", sizes, "-i", tmp_path / "empty")
    assert (ended.code, "has no images" in ended.err) == (2, True)


def test_json_names_the_images(call: Call, sizes: Path, photos: Path) -> None:
    answer = call("run", sizes, photos / "b.png", "--json", "--top-k", "1").json
    assert answer["inputs"] == ["b.png"]
    assert answer["results"] == [[{"label": "bytes", "score": 2}]]


def test_an_image_on_stdin(call: Call, sizes: Path, photos: Path) -> None:
    for words in ((), ("-",), ("-i", "-")):
        assert call("run", sizes, *words, "--top-k", "1", stdin=b"12345").out == "bytes 5.0000\n"
    assert call("run", sizes, "-", photos / "b.png", "--top-k", "1", stdin=b"1").out.splitlines()[0][0] == "-"


@pytest.mark.parametrize(
    ("words", "stdin", "text"),
    [
        (("-i", "absent.png"), None, "cannot read 'absent.png': No such file or directory"),
        (("-i", "a\0b"), None, "cannot read 'a\\x00b'"),
        ((), None, "no input"),
        ((), b"", "no input"),
        (("-i", "-"), None, "no input"),
        (("-p", "a.png"), None, "image-size.ek (image-size) has no --prompt"),
        (("-i", "a.png", "--query", "x"), None, "image-size.ek (image-size) has no --query"),
    ],
)
def test_what_makes_no_sense(call: Call, sizes: Path, words: tuple[str, ...], stdin: bytes | None, text: str) -> None:
    ended = call("run", sizes, *words, stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err
    assert "hint: " in ended.err


def test_an_image_on_stdin_that_is_too_large(call: Call, sizes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "IMAGE_BYTES", 4)
    ended = call("run", sizes, "-", stdin=b"12345")
    assert (ended.code, "the image on stdin has more than 4 bytes" in ended.err) == (2, True)


def test_a_model_of_texts_takes_no_image(call: Call, vectors: Path) -> None:
    ended = call("run", vectors, "-i", "a.png")
    assert (ended.code, "(feature-extraction) has no --image" in ended.err) == (2, True)
