"""What a user types as MODEL: every form, its order, and every refusal with its exit code and next step."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import COMMIT, Hub, pointed_at
from tokenizers import Tokenizer

import edgekit
from edgekit import hfconfig, hub, source, zoo
from edgekit.errors import BundleError, EdgeKitError, SourceError, UnsupportedError, UsageError
from edgekit.exporters._config import Config

CONFIG: dict[str, Any] = {"model_type": "tiny-arch", "hidden_size": 4}


@pytest.fixture(autouse=True)
def tiny_arch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more exporter, so that these tests need no real architecture; only its file's name is ever looked at."""
    home = tmp_path_factory.mktemp("more")
    (home / "exporters").mkdir()
    (home / "exporters" / "tiny_arch.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(edgekit, "__path__", [*edgekit.__path__, str(home)])


def tensor_file(data: bytes = bytes(8)) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def model(folder: Path, config: dict[str, Any] | None = None, code: str = "") -> Path:
    """A folder that an export can take; `code` becomes the two Python files that a repository may bring along."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "model.safetensors").write_bytes(tensor_file())
    for name in ("modeling_evil.py", "configuration_evil.py") if code else ():
        (folder / name).write_text(code)
    return folder


def refusal(kind: type[EdgeKitError], name: str, **options: Any) -> EdgeKitError:
    with pytest.raises(kind) as caught:
        source.resolve(name, **options)
    assert caught.value.hint
    return caught.value


# ---- paths, zoo, random


def test_a_folder(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    found = source.resolve(str(folder))
    assert (found.id, found.arch, found.folder) == (str(folder), "tiny_arch", folder)
    assert (found.revision, found.config, found.random) == ("", CONFIG, False)


def test_a_folder_below_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export's workers run in a folder of their own, and must find it too."""
    model(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert source.resolve("mine").folder == tmp_path / "mine"
    assert source.resolve("random:mine/config.json").folder == tmp_path / "mine"


def test_a_folder_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = model(tmp_path / "tiny")
    assert source.resolve("~/tiny").folder == folder


def test_what_exists_as_a_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", "gpt-4"):
        model(tmp_path / name)
        assert source.resolve(name).id == name


def test_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_HOME", tmp_path)
    model(tmp_path / "parity")
    (tmp_path / "no model").mkdir()
    assert source.zoo() == ["parity"]
    assert source.resolve("zoo:parity").folder == tmp_path / "parity"
    assert refusal(SourceError, "zoo:../parity").exit_code == 3


def test_random_from_a_file_and_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "big.json").write_text(json.dumps({**CONFIG, "hidden_size": 4096}))
    found = source.resolve(f"random:{tmp_path}")
    assert (found.random, found.folder, found.config) == (True, tmp_path, CONFIG)
    assert source.resolve(f"random:{tmp_path}/big.json").config["hidden_size"] == 4096
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


def test_a_path_whose_parent_is_empty_or_missing(tmp_path: Path) -> None:
    assert "holds nothing" in refusal(SourceError, f"{tmp_path}/a").hint
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
    "name", [*OPEN, *(name for closed in source.CLOSED for name in closed.instead), "gpt2", "o1labs/x"]
)
def test_open_models_are_not_called_closed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "local cache" in refusal(SourceError, name, offline=True).message


# ---- config.json


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[]", "not an object"),
        (b"{", "not proper JSON"),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b'\xef\xbb\xbf{"a": 1}', "not proper JSON"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "deeper"),
        (b'{"a":' * 100_000, "not proper JSON"),
        (b'{"model_type": 3}', "no name"),
        (b'{"model_type": "../bert"}', "no name"),
        (b" " * (hfconfig.MAX_BYTES + 1), "longer than"),
    ],
)
def test_bad_configs(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    assert why in refusal(BundleError, f"random:{tmp_path}").message


def test_config_that_is_no_readable_file(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "no regular file" in refusal(BundleError, str(folder)).message
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/proc/self/mem")  # reading its first page is an I/O error
    assert "cannot be read" in refusal(BundleError, str(folder)).message


def test_infinity_in_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "tiny-arch", "time_step_limit": [0.0, Infinity]}')
    assert source.resolve(f"random:{tmp_path}").config["time_step_limit"] == [0.0, float("inf")]


def test_no_model_type(tmp_path: Path) -> None:
    assert "save_pretrained" in refusal(UnsupportedError, str(model(tmp_path / "tiny", {"hidden_size": 4}))).hint


def test_architecture() -> None:
    assert source.architecture({"model_type": "tiny-arch"}) == "tiny_arch"
    with pytest.raises(UnsupportedError, match="'tiny-arhc'") as caught:
        source.architecture({"model_type": "tiny-arhc"})
    assert "'tiny_arch'" in caught.value.hint
    with pytest.raises(UnsupportedError) as caught:
        source.architecture({"model_type": "zzzzzz"})
    assert "edgekit list" in caught.value.hint


HOSTILE = {
    **CONFIG,
    "auto_map": {"AutoModel": "evil/repo--modeling_evil.Evil"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "evil/kernel",
    "_name_or_path": "/home/evil",
    "__class__": "x",
    "text_config": {"hidden_size": 2, "attn_implementation": "evil/kernel", "use_kernels": True},
    "parts": [{"auto_map": {}, "depth": 1}],
}


def test_infinity_is_kept_as_transformers_writes_it(tmp_path: Path) -> None:
    """Both ways: the Mamba-2 configs on the hub hold Python's own."""
    for limit in ('{"__float__": "Infinity"}', "Infinity"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "mamba2", "time_step_limit": [0.0, {limit}]}}')
        config, removed = hfconfig.read(tmp_path / "config.json")
        assert Config(config).numbers("time_step_limit", 2, most=math.inf) == [0.0, math.inf]
        assert not removed


def test_what_steers_is_struck_out_by_name(tmp_path: Path) -> None:
    config, removed = hfconfig.read(model(tmp_path / "tiny", HOSTILE) / "config.json")
    assert config == {**CONFIG, "text_config": {"hidden_size": 2}, "parts": [{"depth": 1}]}
    assert set(removed) == {
        *("auto_map", "trust_remote_code", "_attn_implementation_internal", "_name_or_path", "__class__"),
        *("text_config.attn_implementation", "text_config.use_kernels", "parts.0.auto_map"),
    }
    assert source.resolve(str(tmp_path / "tiny")).config == config


def test_what_steers_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="edgekit"):
        source.resolve(str(model(tmp_path / "tiny", HOSTILE)))
    assert "_attn_implementation_internal" in caplog.text


@pytest.mark.parametrize(
    "value", [{"dataset": "evil/repo"}, {"a": [{"path": "..\\x"}]}, {"modules": "evil.py"}, "https://evil/x"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_quantization_that_points_away(tmp_path: Path, value: Any, nested: bool) -> None:
    bad = {"quantization_config": value}
    folder = model(tmp_path / "tiny", {**CONFIG, **({"text_config": bad} if nested else bad)})
    error = refusal(UnsupportedError, str(folder))
    assert error.exit_code == 4
    assert "quantization_config" in error.message


def test_quantization_that_stays_is_kept(tmp_path: Path) -> None:
    own = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.0.self_attn", "lm_head"]}
    folder = model(tmp_path / "tiny", {**CONFIG, "quantization_config": own})
    assert source.resolve(str(folder)).config["quantization_config"] == own


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
    assert "auto_map" not in source.resolve(str(native), trust_remote_code=trust).config
    assert not canary.exists()


def test_code_for_what_transformers_knows_is_ignored(tmp_path: Path) -> None:
    """Native wins: for `vits` the answer is "no exporter", not "remote code needed"."""
    assert hfconfig.is_native("vits")
    assert not hfconfig.is_native("no_such_arch")
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
    found = source.resolve("org/name", revision=revision)
    assert (found.id, found.arch, found.revision, found.config) == ("org/name", "tiny_arch", COMMIT, CONFIG)
    assert (found.folder / "1_Pooling/config.json").is_file()
    assert source.resolve("org/name", revision=revision, offline=True) == found


def test_only_what_an_export_reads_is_downloaded(server: Hub) -> None:
    other = ["README.md", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "model.fp16.safetensors"]
    other += ["original/model.safetensors", "consolidated.safetensors", "modeling_tiny.py", "tf_model.h5"]
    server.repos["org/name"] = repo() | dict.fromkeys(other, b"no")
    folder = source.resolve("org/name").folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"}


def test_shards_come_by_their_index_and_last(server: Hub) -> None:
    index = {"weight_map": {"w": "model-1.safetensors"}}
    files = repo() | {"model-1.safetensors": tensor_file(), "model-2.safetensors": b"not named by the index"}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    del files["model.safetensors"]
    server.repos["org/name"] = files
    source.resolve("org/name")
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
    assert "no config.json" in refusal(SourceError, "org/gguf").message


def test_remote_code_of_a_hub_model(server: Hub, tmp_path: Path) -> None:
    code = canary_code(tmp_path / "canary").encode()
    server.repos["org/name"] = repo(REMOTE) | {"modeling_evil.py": code}
    assert "remote code needed" in refusal(UnsupportedError, "org/name").message
    assert "40 hex digits" in refusal(UsageError, "org/name", trust_remote_code=True).hint
    assert "pinned" in refusal(UsageError, "org/name", trust_remote_code=True, revision="main").message
    assert "no exporter" in refusal(UnsupportedError, "org/name", trust_remote_code=True, revision=COMMIT).message
    server.repos["org/native"] = repo({**REMOTE, "model_type": "tiny-arch"}) | {"modeling_evil.py": code}
    assert source.resolve("org/native", trust_remote_code=True, revision=COMMIT).config == {"model_type": "tiny-arch"}
    assert server.asked(".py") == 0
    assert not (tmp_path / "canary").exists()


# ---- the stand-in tokenizer

TEXTS = ["Hello, world!", "naïve café 北京 🙂", " two  spaces\n\ttab ", "\0\x7f", ""]


@pytest.mark.parametrize(
    ("size", "pad"), [(261, 0), (30522, 0), (50265, 1), (32000, None), (300, -1), (300, 300), (512, 511)]
)
def test_stand_in_tokenizer_takes_any_text_and_gives_it_back(size: int, pad: int | None) -> None:
    made = source.stand_in_tokenizer(size, pad)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    vocab = tokenizer.get_vocab()
    assert len(set(vocab.values())) == len(vocab) == 261
    assert all(0 <= number < size for number in vocab.values())
    if pad in range(size):
        assert tokenizer.token_to_id("[PAD]") == pad
    for text in TEXTS:
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == text
        assert encoded.tokens[0] == "[CLS]"
        assert encoded.tokens[-1] == "[SEP]"
        assert len(encoded.ids) == len(text.encode()) + 2


def test_stand_in_tokenizer_keeps_the_ids_of_a_config() -> None:
    made = source.stand_in_tokenizer(50265, 1, unk_token_id=3, cls_token_id=0, sep_token_id=2, mask_token_id=50264)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    names = {"[PAD]": 1, "[UNK]": 3, "[CLS]": 0, "[SEP]": 2, "[MASK]": 50264}
    assert {name: tokenizer.token_to_id(name) for name in names} == names
    assert tokenizer.encode("[MASK]").ids == [0, 50264, 2]
    pair = tokenizer.encode("a", "b")
    assert pair.type_ids == [0, 0, 0, 1, 1]


def test_stand_in_tokenizer_for_a_decoder_whose_special_tokens_are_one() -> None:
    made = source.stand_in_tokenizer(50257, None, cls_token_id=50256, sep_token_id=50256, wrap=False)
    tokenizer = Tokenizer.from_str(json.dumps(made))
    assert tokenizer.token_to_id("[CLS]") == 50256
    assert tokenizer.token_to_id("[SEP]") not in (None, 50256)
    assert len(tokenizer.encode("abc").ids) == 3


def test_stand_in_tokenizer_for_a_small_vocabulary() -> None:
    tokenizer = Tokenizer.from_str(json.dumps(source.stand_in_tokenizer(64, 0)))
    assert max(tokenizer.get_vocab().values()) == 63
    assert tokenizer.decode(tokenizer.encode("hello world").ids) == "hello world"
    assert tokenizer.encode("é").tokens == ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]
    with pytest.raises(UnsupportedError, match="no room"):
        source.stand_in_tokenizer(15)


def test_source_is_light() -> None:
    """Neither the hub's client nor torch nor numpy is imported to look at a name."""
    program = (
        "import sys, edgekit.source; print({'torch', 'transformers', 'huggingface_hub', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
