"""The form of a decoder that reads prompts on the cpu: its graph, its weights, and where it takes part."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_decoders import build, config_of, folder_of
from mapped import resident
from opened_decoder import drawn, padded
from tiny_decoder import TABLE, VOCABULARY, Shape, write

from edgekit import registry
from edgekit.core import Graph, Recipe
from edgekit.errors import BundleError, InputError
from edgekit.machine.memory_pages import give_back
from edgekit.targets._ort import prompt_reader
from edgekit.targets._ort.passes.decoder_graph import group_queries
from edgekit.targets._ort.passes.prompt_graph import SCALES, VALUES, reading
from edgekit.targets._ort.prompt_reader import CHUNK, LEAST, chunks, silent
from edgekit.targets._ort.prompt_weights import HALF, WHOLE, prepare
from edgekit.workbench import graph

BLOCKS = Shape(weights="int4", windows=(None, 40), head_norm=True)
# Tokens have one scale each here and one for 16 numbers there: both are 8 bits of what they multiply.
NEAR = 0.06


@dataclass
class Twins:
    """One decoder opened twice: with the prompt's form and without."""

    folder: Path
    graph: Graph
    reading: Any
    plain: Any


def packed(folder: Path, shape: Shape) -> Graph:
    return forms(folder, write(folder, shape))


def forms(folder: Path, noun: Graph) -> Graph:
    """The decoder in the cpu's forms, with its weights in a file of their own, as in a bundle."""
    target = registry.find("targets", "cpu")
    model = target.compile(graph.load(folder / noun.path), Recipe(), kind=noun.kind)
    prompt = target.prompt(model)
    graph.pack({"model.onnx": model} | ({"prompt.onnx": prompt} if prompt else {}), folder)
    described = prompt and graph.describe(prompt, "prompt", "prompt.onnx", {})
    return replace(graph.describe(model, "model", "model.onnx", {}, noun.states, noun.kind), prompt=described)


def opened(folder: Path, noun: Graph, cache: Path | None = None) -> Any:
    return registry.find("targets", "cpu").open(folder, noun, Recipe(), threads=2, cache=cache)


@pytest.fixture(scope="module", params=["int4", "int8", "mamba", "mamba2", "falcon_h1"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Attention alone, in blocks of both kinds; states of a fixed size alone; and both."""
    folder = tmp_path_factory.mktemp("blocks")
    if request.param in ("int4", "int8"):
        noun = packed(folder, replace(BLOCKS, weights=request.param))
    else:
        changes = {"vocab_size": VOCABULARY, "hidden_size": 128, "max_position_embeddings": TABLE, "mamba_d_ssm": 96}
        changes |= {"num_heads": 16} if request.param == "mamba2" else {}
        source = folder_of(folder / "source", config_of(request.param, **changes))
        noun = build(source, folder, Recipe("int4", group_size=32, method="rtn"))
        (folder / noun.path).rename(folder / "portable.onnx")
        noun = forms(folder, replace(noun, path="portable.onnx"))
    found = Twins(folder, noun, opened(folder, noun), opened(folder, replace(noun, prompt=None)))
    yield found
    found.reading.close()
    found.plain.close()


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(11)


def near(found: Any, wanted: Any) -> None:
    assert np.abs(found - wanted).max() < NEAR * wanted.std() * 10
    assert np.sqrt(np.mean((found - wanted) ** 2)) < NEAR * wanted.std()


def test_a_prompt_is_read_in_its_own_form_and_means_the_same(twins: Twins, draw: np.random.Generator) -> None:
    (text,) = drawn(draw, [100])
    (found, state), (wanted, plain) = (one.run(padded([text])) for one in (twins.reading, twins.plain))
    near(found["logits"], wanted["logits"])
    assert not np.array_equal(found["logits"], wanted["logits"])  # it did take part
    caches, truth = twins.reading.save(state), twins.plain.save(plain)
    assert caches["lengths"].tolist() == [100]
    for name in truth.keys() - {"lengths"}:
        near(caches[name], truth[name])


def test_few_tokens_are_not_worth_it(twins: Twins, draw: np.random.Generator) -> None:
    (text,) = drawn(draw, [LEAST])  # the last of them gives logits
    found, wanted = (one.run(padded([text]))[0]["logits"] for one in (twins.reading, twins.plain))
    np.testing.assert_array_equal(found, wanted)


def test_rows_of_any_length_are_what_they_are_alone(twins: Twins, draw: np.random.Generator) -> None:
    texts = drawn(draw, [5, 90, 1, 47, 90])
    outputs, state = twins.reading.run(padded(texts))
    logits = outputs["logits"].copy()
    assert state.lengths.tolist() == [5, 90, 1, 47, 90]
    after = twins.reading.run(padded([[7], [8], [9], [10], [11]]), state)[0]["logits"].copy()
    for row, text in enumerate(texts):
        alone, kept = twins.reading.run(padded([text]))
        np.testing.assert_allclose(logits[row], alone["logits"][0], atol=1e-5)
        again = twins.reading.run(padded([[7 + row]]), kept)[0]["logits"]
        np.testing.assert_allclose(after[row], again[0], atol=1e-5)


def test_a_past_of_any_length_goes_before(twins: Twins, draw: np.random.Generator) -> None:
    first, second, third = drawn(draw, [40, 3, 70])
    states = [one.run(padded([first]))[1] for one in (twins.reading, twins.plain)]
    for more in (second, third):
        both = [one.run(padded([more]), state) for one, state in zip((twins.reading, twins.plain), states)]
        near(both[0][0]["logits"], both[1][0]["logits"])


def test_wanted_logits_are_the_same_wherever_they_begin(twins: Twins, draw: np.random.Generator) -> None:
    """What comes before the first is read silently."""
    texts = drawn(draw, [80, 60])
    feeds = padded(texts) | {"logit_positions": np.array([[50, 79], [40, 59]])}
    found, wanted = (one.run(feeds)[0]["logits"] for one in (twins.reading, twins.plain))
    assert found.shape == (2, 2, VOCABULARY)
    near(found, wanted)


def test_without_logits_all_is_read(twins: Twins, draw: np.random.Generator) -> None:
    (text,) = drawn(draw, [64])
    feeds = padded([text]) | {"logit_positions": np.empty((1, 0), np.int64)}
    outputs, state = twins.reading.run(feeds)
    assert outputs["logits"].shape == (1, 0, VOCABULARY)
    whole = twins.reading.run(padded([[*text, 5]]))[0]["logits"]
    near(twins.reading.run(padded([[5]]), state)[0]["logits"], whole)


def test_chunks_cover_a_prompt() -> None:
    assert [(each.start, each.stop) for each in chunks(CHUNK)] == [(0, CHUNK)]
    edges = [(each.start, each.stop) for each in chunks(2 * CHUNK + 1)]
    assert edges == [(0, 171), (171, 342), (342, 513)]


def test_chunks_meet(twins: Twins, draw: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = drawn(draw, [TABLE - 1])
    whole = twins.reading.run(padded([text]))[0]["logits"].copy()
    monkeypatch.setattr(prompt_reader, "CHUNK", 37)
    np.testing.assert_allclose(twins.reading.run(padded([text]))[0]["logits"], whole, atol=1e-4)


def test_what_is_silent() -> None:
    counts = np.array([LEAST + 1, 8, LEAST + 5])
    assert silent(counts, counts[:, None] - 1).tolist() == [LEAST, 0, LEAST + 4]
    assert silent(counts, np.empty((3, 0), np.int64)).tolist() == [LEAST + 1, 0, LEAST + 5]


def test_a_token_that_is_none_leaves_the_state_as_it_was(twins: Twins, draw: np.random.Generator) -> None:
    first, second = drawn(draw, [50, 60])
    state = twins.reading.run(padded([first]))[1]
    with pytest.raises(InputError, match="no such token"):
        twins.reading.run(padded([[*second[:-9], 10**6, *second[-9:]]]), state)
    assert state.lengths.tolist() == [50]
    found = twins.reading.run(padded([second]), state)[0]["logits"].copy()
    np.testing.assert_array_equal(
        found, twins.reading.run(padded([second]), twins.reading.run(padded([first]))[1])[0]["logits"]
    )


@pytest.mark.parametrize("shape", [Shape(), Shape(rotary=0)], ids=["rotary", "learned positions"])
def test_float32_has_no_other_form(shape: Shape, tmp_path: Path) -> None:
    assert packed(tmp_path, shape).prompt is None


def test_a_product_of_rows_without_a_batch_stays_as_it_is(tmp_path: Path) -> None:
    import onnx_ir as ir

    model = graph.load(tmp_path / write(tmp_path, BLOCKS).path)
    group_queries(model)
    whole = len(reading(model).graph.inputs)
    first = next(node for node in model.graph if node.op_type == "MatMul")
    assert first.inputs[0] is not None
    first.inputs[0].shape = ir.Shape(["tokens", 64])
    assert 2 <= whole - len(reading(model).graph.inputs) <= 6  # all that read it


def test_learned_positions_are_read_too(tmp_path: Path, draw: np.random.Generator) -> None:
    noun = packed(tmp_path, replace(BLOCKS, rotary=0))
    with_form, without = opened(tmp_path, noun), opened(tmp_path, replace(noun, prompt=None))
    first, second = drawn(draw, [40, 60])
    both = []
    for one in (with_form, without):
        state = one.run(padded([first]))[1]
        both.append(one.run(padded([second]), state)[0]["logits"])
        one.close()
    near(*both)


# ---- the weights


def exact(folder: Path, noun: Graph) -> dict[tuple[str, str], Any]:
    """Every matrix as the portable graph means it, float32, by the names of its numbers and its scales."""
    from onnx import load, numpy_helper

    model = load(folder / "portable.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in model.graph.initializer}
    assert noun.prompt is not None
    names = {port.name.removesuffix(VALUES) for port in noun.prompt.inputs if port.name.endswith(VALUES)}
    pairs = {tuple(node.input[:2]) for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {
        (name, scale): tensors[name] * np.repeat(tensors[scale], len(tensors[name]) // len(tensors[scale]), 0)
        for name, scale in pairs
        if name in names
    }


@pytest.mark.parametrize("largest", [WHOLE, HALF])
def test_weights_are_the_blocks_in_steps_of_their_output(twins: Twins, largest: int) -> None:
    made, truth = prepare(twins.folder, twins.graph, 2, None, largest), exact(twins.folder, twins.graph)
    assert len(truth) == len(made) // 2 >= 3
    for (name, scale), wanted in truth.items():
        values, scales = made[f"{name}{VALUES}"], made[f"{scale}{SCALES}"]
        np.testing.assert_allclose(scales, np.abs(wanted).max(0) / largest, rtol=1e-6)
        assert values.dtype == np.int8
        assert np.abs(values * scales - wanted).max() <= 0.5001 * scales.max()


def test_two_products_of_the_largest_bytes_fit_where_they_are_added_up_in_16_bits() -> None:
    assert 2 * 255 * HALF < 1 << 15 <= 2 * 255 * (HALF + 2)


@pytest.mark.parametrize(
    ("machine", "features", "largest"),
    [
        ("x86_64", {"avx2"}, HALF),
        ("AMD64", set(), HALF),  # Windows, which tells nothing
        ("x86_64", {"avx512f"}, HALF),
        ("x86_64", {"avx_vnni"}, WHOLE),
        ("aarch64", {"asimd"}, WHOLE),  # a Cortex-A72
        ("arm64", {"asimd", "asimddp"}, WHOLE),
    ],
)
def test_the_processor_says_how_large_weights_may_be(
    machine: str, features: set[str], largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.machine.device.cpu_features", lambda: features)
    monkeypatch.setattr("platform.machine", lambda: machine)
    made: list[int] = []
    monkeypatch.setattr("edgekit.targets.cpu.prepare", lambda *told: made.append(told[-1]) or prepare(*told))
    opened(tmp_path, packed(tmp_path, BLOCKS)).close()
    assert made == [largest]


def test_an_output_without_weights_is_zero(tmp_path: Path) -> None:
    noun = packed(tmp_path, BLOCKS)
    weights = tmp_path / graph.WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    made = prepare(tmp_path, noun, 1, None)
    assert all((array == (0 if name.endswith(VALUES) else 1)).all() for name, array in made.items())


@pytest.mark.parametrize("wrong", ["another name", "another shape"])
def test_weights_that_are_not_in_the_file(wrong: str, tmp_path: Path) -> None:
    noun = packed(tmp_path, BLOCKS)
    assert noun.prompt is not None
    ports = list(noun.prompt.inputs)
    place = next(place for place, port in enumerate(ports) if port.name.endswith(VALUES))
    port, (inputs, outputs) = ports[place], ports[place].shape
    changes = {"another name": {"name": f"x{port.name}"}, "another shape": {"shape": (2 * int(inputs), outputs)}}
    ports[place] = replace(port, **changes[wrong])
    with pytest.raises(BundleError, match="has no weights that"):
        prepare(tmp_path, replace(noun, prompt=replace(noun.prompt, inputs=tuple(ports))), 1, None)


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Prepare a decoder's weights with a cache: the file, and what is in memory."""
    folder, cache = tmp_path / "bundle", tmp_path / "cache" / "deep"
    folder.mkdir()
    noun = packed(folder, BLOCKS)

    def again() -> tuple[Path, dict[str, Any]]:
        made = dict(prepare(folder, noun, 2, cache))
        (file,) = cache.iterdir()
        return file, made

    return again


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_what_was_made_is_kept_and_mapped(kept: Callable[[], tuple[Path, dict[str, Any]]]) -> None:
    file, made = kept()
    before = file.stat()
    file_again, again = kept()
    assert file_again == file
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert same(made, again)
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "zeros"])
def test_what_is_damaged_is_made_anew(
    damage: str, kept: Callable[[], tuple[Path, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    file, made = kept()
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    spoiled = {"flipped": content, "short": content[:-1], "empty": b"", "zeros": bytes(len(content))}[damage]
    os.replace(_new(file, bytes(spoiled)), file)
    with caplog.at_level(logging.WARNING, logger="edgekit"):
        file_again, again = kept()
    assert same(made, {name: array.copy() for name, array in again.items()})
    assert ("damaged" in caplog.text) == (damage in ("flipped", "zeros"))
    assert file_again.read_bytes() != bytes(spoiled)


def _new(file: Path, content: bytes) -> Path:
    other = file.parent.parent / "spoiled"
    other.write_bytes(content)
    return other


@pytest.mark.skipif(sys.platform != "linux", reason="pages are read from /proc")
def test_weights_take_memory_while_a_prompt_is_read(
    tmp_path: Path, draw: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    noun, cache, given = packed(tmp_path, BLOCKS), tmp_path / "cache", []

    @contextmanager
    def noted(folder: Path, *, every: float) -> Iterator[None]:
        yield
        given.append((resident(folder), every))
        give_back(folder)

    monkeypatch.setattr(prompt_reader, "giving_back", noted)
    (text,) = drawn(draw, [100])
    answers = []
    for _ in ("made", "kept"):
        with closing(opened(tmp_path, noun, cache)) as session:
            assert resident(cache) == 0
            answers += [session.run(padded([text]))[0]["logits"] for _ in range(2)]
            assert resident(cache) == 0
    assert len(given) == 4
    assert all(taken and every == prompt_reader.OFTEN for taken, every in given)
    assert all(np.array_equal(each, answers[0]) for each in answers)


def test_another_bundle_at_the_same_place_is_another(tmp_path: Path) -> None:
    folder, cache = tmp_path / "bundle", tmp_path / "cache"
    folder.mkdir()
    first = {name: array.copy() for name, array in prepare(folder, packed(folder, BLOCKS), 1, cache).items()}
    noun = packed(folder, replace(BLOCKS, weights="int8"))
    second = prepare(folder, noun, 1, cache)
    assert not same(first, dict(second))
    assert same(dict(second), dict(prepare(folder, noun, 1, None)))
    assert len(list(cache.iterdir())) == 1  # the old one is gone
    assert np.abs(prepare(folder, noun, 1, cache, HALF)[next(iter(second))]).max() == HALF  # on another processor


def test_no_room_to_keep_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noun = packed(tmp_path, BLOCKS)
    wanted = prepare(tmp_path, noun, 2, None)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert same(dict(prepare(tmp_path, noun, 2, tmp_path / "cache")), dict(wanted))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_is_no_folder(tmp_path: Path) -> None:
    noun = packed(tmp_path, BLOCKS)
    (tmp_path / "cache").write_text("in the way")
    assert same(dict(prepare(tmp_path, noun, 2, tmp_path / "cache")), dict(prepare(tmp_path, noun, 2, None)))
