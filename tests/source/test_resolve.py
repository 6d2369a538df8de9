"""What a user types as MODEL: every form, its order, and every refusal with its exit code and next step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import COMMIT, Hub, pointed_at
from tiny_source import CONFIG, model, refusal, tensor_file, tiny_arch

from edgekit import zoo
from edgekit.errors import BundleError, SourceError, UnsupportedError, UsageError
from edgekit.source import config_json, hub, resolve

__all__ = ["tiny_arch"]


# ---- paths, zoo, random


def test_a_folder(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    found = resolve.resolve(str(folder))
    assert (found.id, found.arch, found.folder) == (str(folder), "tiny_arch", folder)
    assert (found.revision, found.config, found.random) == ("", CONFIG, False)


def test_a_folder_below_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export's workers run in a folder of their own, and must find it too."""
    model(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve.resolve("mine").folder == tmp_path / "mine"
    assert resolve.resolve("random:mine/config.json").folder == tmp_path / "mine"


def test_a_folder_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = model(tmp_path / "tiny")
    assert resolve.resolve("~/tiny").folder == folder


def test_what_exists_as_a_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", "gpt-4"):
        model(tmp_path / name)
        assert resolve.resolve(name).id == name


def test_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_HOME", tmp_path)
    model(tmp_path / "parity")
    (tmp_path / "no model").mkdir()
    assert resolve.zoo() == ["parity"]
    assert resolve.resolve("zoo:parity").folder == tmp_path / "parity"
    assert refusal(SourceError, "zoo:../parity").exit_code == 3


def test_random_from_a_file_and_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "big.json").write_text(json.dumps({**CONFIG, "hidden_size": 4096}))
    found = resolve.resolve(f"random:{tmp_path}")
    assert (found.random, found.folder, found.config) == (True, tmp_path, CONFIG)
    assert resolve.resolve(f"random:{tmp_path}/big.json").config["hidden_size"] == 4096
    assert "big.json" in refusal(SourceError, f"random:{tmp_path}/bing.json").hint


def test_other_files(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    assert "zoo:NAME" in refusal(UnsupportedError, str(folder / "model.safetensors")).hint
    assert f"random:{folder / 'config.json'}" in refusal(UnsupportedError, str(folder / "config.json")).hint


@pytest.mark.parametrize("name", ["./tinny", "../{here}/tinny", "{root}/tinny", "a.onnx", "a\\b", "~/tinny"])
def test_a_path_that_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = refusal(SourceError, name.format(here=tmp_path.name, root=tmp_path))
    assert error.exit_code == 3
    assert "does not exist" in error.message
    assert "tiny" in error.hint


def test_only_what_could_be_a_model_is_proposed(tmp_path: Path) -> None:
    for name in ("notes.txt", "net.onnx", "run.log", "config.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    assert refusal(SourceError, f"{tmp_path}/xyz").hint == "the folder holds: folder, net.onnx"
    assert refusal(SourceError, f"random:{tmp_path}/xyz").hint == "the folder holds: config.json, folder, net.onnx"


def test_an_encoder_in_a_folder_of_its_own(tmp_path: Path) -> None:
    model(tmp_path / "old" / "0_Transformer")
    entry = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "old" / "modules.json").write_text(json.dumps([entry]))
    found = resolve.resolve(str(tmp_path / "old"))
    assert (found.folder, found.config) == (tmp_path / "old" / "0_Transformer", CONFIG)


def test_weights_with_a_second_name_on_the_disk_are_read(tmp_path: Path) -> None:
    """As tools that save space leave them; what is read is checked byte by byte all the same."""
    folder = model(tmp_path / "tiny")
    (tmp_path / "other").hardlink_to(folder / "model.safetensors")
    assert resolve.sizes(resolve.resolve(str(folder))) == {"w": 8}


def test_a_folder_whose_name_is_not_unicode(tmp_path: Path) -> None:
    folder = model(Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe")))
    for error in (refusal(UsageError, str(folder)), refusal(SourceError, str(folder) + "-x")):
        json.dumps(error.as_dict()).encode()
    assert "rename" in refusal(UsageError, str(folder)).hint


def test_a_path_whose_parent_is_empty_or_missing(tmp_path: Path) -> None:
    assert "holds no model" in refusal(SourceError, f"{tmp_path}/a").hint
    assert "does not exist either" in refusal(SourceError, f"{tmp_path}/a/b").hint


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    for name, kind in (
        ("README.md", SourceError),
        ("edgekit.json", UsageError),
        ("model_index.json", UnsupportedError),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("{}")
        refusal(kind, str(folder))


def test_bad_weights_are_refused_here(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(tensor_file()[:-1])
    assert refusal(BundleError, str(folder)).exit_code == 6


def test_revision_of_a_folder(tmp_path: Path) -> None:
    assert "hub ids" in refusal(UsageError, str(model(tmp_path / "tiny")), revision="main").hint


# ---- names


@pytest.mark.parametrize(
    "name",
    ["", "a/b/c", "a b", "hf:org/name", "org/", "-a", "a--b/c", "a/b..c", "name.", "ä/b", "x" * 97, "a\0b", "y" * 5000],
)
def test_names_that_cannot_be_on_a_hub(name: str) -> None:
    error = refusal(SourceError, name)
    assert error.exit_code == 3
    assert "hub id" in error.hint


def test_an_address_instead_of_a_name() -> None:
    assert "'org/name'" in refusal(SourceError, "https://huggingface.co/org/name/tree/main").hint


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("gpt-4", "Qwen/"),
        ("gpt-4o-mini", "Qwen/"),
        ("openai/gpt-4.1", "Qwen/"),
        ("OpenAI/GPT-4-turbo", "Qwen/"),
        ("gpt-3.5-turbo", "Qwen/"),
        ("openai/o3-mini", "Qwen/"),
        ("anthropic/claude-3-opus", "Qwen/"),
        ("claude-sonnet-4", "Qwen/"),
        ("google/gemini-2.5-pro", "gemma"),
        ("dall-e-3", "stable-diffusion"),
        ("openai/dalle-2", "stable-diffusion"),
        ("text-embedding-3-small", "MiniLM"),
        ("openai/text-embedding-ada-002", "MiniLM"),
    ],
)
def test_models_without_public_weights(name: str, instead: str) -> None:
    error = refusal(UnsupportedError, name)
    assert error.exit_code == 4
    assert "not public" in error.message
    assert instead in error.hint


OPEN = [
    "openai/gpt-oss-20b",
    "openai-community/gpt2",
    "openai/whisper-tiny",
    "google/gemma-3-1b-it",
    "nomic-ai/gpt4all-j",
]


@pytest.mark.parametrize(
    "name", [*OPEN, *(name for closed in resolve.CLOSED for name in closed.instead), "gpt2", "o1labs/x"]
)
def test_open_models_are_not_called_closed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "local cache" in refusal(SourceError, name, offline=True).message


# ---- remote code


def canary_code(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n"


REMOTE = {"model_type": "no-such-arch", "auto_map": {"AutoModel": "modeling_evil.Evil"}}


@pytest.mark.parametrize("trust", [False, True])
def test_code_of_a_repository_is_never_run(tmp_path: Path, trust: bool) -> None:
    canary = tmp_path / "canary"
    code = canary_code(canary)
    mapped = model(tmp_path / "mapped", REMOTE, code)
    unmapped = model(tmp_path / "unmapped", {"model_type": "no-such-arch"}, code)
    for folder in (mapped, unmapped):
        error = refusal(UnsupportedError, str(folder), trust_remote_code=trust)
        assert error.exit_code == 4
        assert ("remote code needed" in error.message) != trust
    native = model(tmp_path / "native", {**REMOTE, "model_type": "tiny-arch"}, code)
    assert "auto_map" not in resolve.resolve(str(native), trust_remote_code=trust).config
    assert not canary.exists()


def test_code_for_what_transformers_knows_is_ignored(tmp_path: Path) -> None:
    """Native wins: for `vits` the answer is "no exporter", not "remote code needed"."""
    assert config_json.is_native("vits")
    assert not config_json.is_native("no_such_arch")
    error = refusal(UnsupportedError, str(model(tmp_path / "tiny", {**REMOTE, "model_type": "vits"})))
    assert "no exporter" in error.message


# ---- the hub


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with pointed_at(monkeypatch, tmp_path / "cache") as running:
        yield running


def repo(config: dict[str, Any] | None = None) -> dict[str, bytes]:
    files = {"config.json": json.dumps(config or CONFIG).encode(), "model.safetensors": tensor_file()}
    return files | {"tokenizer.json": b"{}", "1_Pooling/config.json": b"{}", "README.md": b"hello"}


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_id(server: Hub, revision: str | None) -> None:
    server.repos["org/name"] = repo()
    found = resolve.resolve("org/name", revision=revision)
    assert (found.id, found.arch, found.revision, found.config) == ("org/name", "tiny_arch", COMMIT, CONFIG)
    assert (found.folder / "1_Pooling/config.json").is_file()
    assert resolve.resolve("org/name", revision=revision, offline=True) == found


def test_only_what_an_export_reads_is_downloaded(server: Hub) -> None:
    other = ["README.md", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "model.fp16.safetensors"]
    other += ["original/model.safetensors", "consolidated.safetensors", "modeling_tiny.py", "tf_model.h5"]
    server.repos["org/name"] = repo() | dict.fromkeys(other, b"no")
    folder = resolve.resolve("org/name").folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"}


def test_shards_come_by_their_index_and_last(server: Hub) -> None:
    index = {"weight_map": {"w": "model-1.safetensors"}}
    files = repo() | {"model-1.safetensors": tensor_file(), "model-2.safetensors": b"not named by the index"}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    del files["model.safetensors"]
    server.repos["org/name"] = files
    resolve.resolve("org/name")
    fetched = [request.path.rsplit("/", 1)[1] for request in server.requests if request.method == "GET"]
    assert fetched[-1] == "model-1.safetensors"
    assert "model-2.safetensors" not in fetched


def test_nothing_heavy_is_downloaded_for_a_model_that_cannot_be_exported(server: Hub) -> None:
    server.repos["org/name"] = repo({"model_type": "tiny-arhc"})
    assert "tiny_arch" in refusal(UnsupportedError, "org/name").hint
    assert server.asked(".safetensors") == 0


def test_offline_with_half_a_model(server: Hub) -> None:
    """Other programs fetch a config alone; that is no model with missing weights, but one that is not here yet."""
    server.repos["org/name"] = repo()
    hub.find("org/name")
    assert "without its weights" in refusal(SourceError, "org/name", offline=True).message


def test_pickles_are_not_even_downloaded(server: Hub) -> None:
    files = repo() | {"pytorch_model.bin": b"pickle"}
    del files["model.safetensors"]
    server.repos["org/name"] = files
    assert refusal(BundleError, "org/name").exit_code == 6
    assert server.asked(".bin") == 0


def test_pointer_instead_of_weights(server: Hub) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
    server.repos["org/name"] = repo() | {"model.safetensors": pointer}
    assert "git lfs pull" in refusal(BundleError, "org/name").hint


def test_repositories_that_are_no_models(server: Hub) -> None:
    server.repos["org/pipeline"] = {"model_index.json": b"{}"}
    server.repos["org/gguf"] = {"model.gguf": b""}
    assert "diffusion" in refusal(UnsupportedError, "org/pipeline").message
    assert "GGUF" in refusal(UnsupportedError, "org/gguf").message


def test_an_encoder_in_a_folder_of_its_own_on_the_hub(server: Hub) -> None:
    files = repo()
    inner = {f"0_Transformer/{name}": files.pop(name) for name in list(files) if "/" not in name}
    entry = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    server.repos["org/old"] = {**files, **inner, "modules.json": json.dumps([entry]).encode()}
    found = resolve.resolve("org/old")
    assert found.folder.name == "0_Transformer"
    assert (found.folder / "model.safetensors").is_file()
    assert resolve.resolve("org/old", offline=True) == found
    assert (found.folder.parent / "1_Pooling/config.json").is_file()


def test_a_name_that_is_neither_here_nor_on_the_hub(server: Hub) -> None:
    assert "no folder org/tinny here" in refusal(SourceError, "org/tinny").message


def test_remote_code_of_a_hub_model(server: Hub, tmp_path: Path) -> None:
    code = canary_code(tmp_path / "canary").encode()
    server.repos["org/name"] = repo(REMOTE) | {"modeling_evil.py": code}
    assert "remote code needed" in refusal(UnsupportedError, "org/name").message
    assert "40 hex digits" in refusal(UsageError, "org/name", trust_remote_code=True).hint
    assert "needs --revision" in refusal(UsageError, "org/name", trust_remote_code=True, revision="main").message
    assert "no exporter" in refusal(UnsupportedError, "org/name", trust_remote_code=True, revision=COMMIT).message
    server.repos["org/native"] = repo({**REMOTE, "model_type": "tiny-arch"}) | {"modeling_evil.py": code}
    assert resolve.resolve("org/native", trust_remote_code=True, revision=COMMIT).config == {"model_type": "tiny-arch"}
    assert server.asked(".py") == 0
    assert not (tmp_path / "canary").exists()


def test_source_is_light() -> None:
    """Neither the hub's client nor torch nor numpy is imported to look at a name."""
    program = (
        "import sys, edgekit.source; print({'torch', 'transformers', 'huggingface_hub', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
