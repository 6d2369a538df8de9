"""Caches on a GPU against caches on the host: the same calls, the same tokens; and what the driver is asked to do.

The driver is a libcuda of our own, in C, whose device is the host (stub_libcuda.c): every structure and every address
goes through ctypes as it does with the real one.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda_forms import compiled, on_cpu
from onnx import TensorProto, helper
from opened_decoder import Opened, follow, reference, walk
from tiny_decoder import HEAD, VOCABULARY, Shape, write

from edgekit.core import Graph, Port, State
from edgekit.errors import DeviceError, InputError, ResourceError, StateError
from edgekit.targets._cuda import driver  # type: ignore[attr-defined]
from edgekit.targets._cuda.driver import Driver  # type: ignore[import-not-found]
from edgekit.targets._cuda.memory import CudaMemory  # type: ignore[import-not-found]
from edgekit.targets._ort.decoder import HostMemory  # type: ignore[import-not-found]

COMPILER = shutil.which("cc")
SOURCE = Path(__file__).parents[1] / "fixtures" / "stub_libcuda.c"


def library(folder: Path, tag: int) -> Any:
    if COMPILER is None:
        pytest.skip("no C compiler to build a driver with")
    built = folder / f"libcuda-{tag:x}.so"
    order = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-DTAG={tag}ULL", str(SOURCE), "-o", str(built)]
    subprocess.run(order, check=True)
    return ctypes.CDLL(str(built))


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Device addresses are no host's."""
    return library(tmp_path_factory.mktemp("driver"), 1 << 60)


@pytest.fixture(scope="module")
def hostcuda(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Device addresses are the host's as well, so that ONNX Runtime's CPU can compute there."""
    return library(tmp_path_factory.mktemp("driver"), 0)


@pytest.fixture(scope="module", autouse=True)
def collections() -> None:
    """What other tests have left is not looked at in each collection of garbage here."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def memory(libcuda: Any) -> Iterator[CudaMemory]:
    gc.collect()
    before = libcuda.stub_allocated()
    yield CudaMemory(0, Driver(libcuda, 0))
    gc.collect()
    assert libcuda.stub_allocated() == before
    assert libcuda.stub_contexts() == 0


def values(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.float16)


def test_new_memory_is_zeros(memory: CudaMemory) -> None:
    buffer = memory.zeros((2, 3, 5, 8), "float16")
    found = memory.read(buffer, 5)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.zeros((2, 3, 5, 8)))


def test_what_is_written_is_read(memory: CudaMemory) -> None:
    buffer, array = memory.zeros((2, 3, 9, 8), "float16"), values(1, 2, 3, 5, 8)
    memory.write(array, buffer)
    np.testing.assert_array_equal(memory.read(buffer, 5), array)
    np.testing.assert_array_equal(memory.read(buffer, 3), array[:, :, :3])
    np.testing.assert_array_equal(memory.read(buffer, 9)[:, :, 5:], 0)
    memory.write(array.swapaxes(0, 1).copy().swapaxes(0, 1), buffer)  # not contiguous
    np.testing.assert_array_equal(memory.read(buffer, 5), array)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3], [2, 2, 2], [3, 2, 1, 0], [1, 2, 0, 1, 2, 3], [0, 2, 3]])
@pytest.mark.parametrize("length", [0, 1, 6])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
def test_rows_are_copied_as_on_the_host(rows: list[int], length: int, dtype: str, memory: CudaMemory) -> None:
    host, array = HostMemory(), values(2, 4, 3, 6, 8).astype(dtype)
    found = []
    for each in (host, memory):
        source, into = each.zeros((4, 3, 7, 8), dtype), each.zeros((len(rows), 3, 11, 8), dtype)
        each.write(array, source)
        each.copy(source, rows, length, into)
        found.append(each.read(into, 11))
    np.testing.assert_array_equal(*found)
    assert found[1].any() == (length > 0)


def test_a_read_is_the_callers_own(memory: CudaMemory) -> None:
    buffer, array = memory.zeros((1, 1, 4, 8), "float16"), values(3, 1, 1, 4, 8)
    memory.write(array, buffer)
    found = memory.read(buffer, 4)
    memory.write(array * 0, buffer)
    np.testing.assert_array_equal(found, array)


def test_memory_is_given_back_when_a_buffer_is_let_go(memory: CudaMemory, libcuda: Any) -> None:
    before = libcuda.stub_allocated()
    buffers = [memory.zeros((1, 1, 4, 8), "float16") for _ in range(5)]
    assert libcuda.stub_allocated() == before + 5
    del buffers[1:]
    assert libcuda.stub_allocated() == before + 1


def test_a_forked_child_frees_nothing(memory: CudaMemory, libcuda: Any) -> None:
    buffers = [memory.zeros((1, 1, 4, 8), "float16")]
    before = libcuda.stub_allocated()
    child = os.fork()
    if child == 0:
        buffers.clear()
        os._exit(7 if libcuda.stub_allocated() == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("shape", [(1, 1, 1 << 27, 8), (1, 1 << 20, 1 << 30, 1 << 20)])
def test_more_than_there_is(shape: tuple[int, ...], memory: CudaMemory) -> None:
    with pytest.raises(MemoryError):
        memory.zeros(shape, "float16")


def test_a_failure_of_the_driver_has_its_name(memory: CudaMemory, libcuda: Any) -> None:
    buffer = memory.zeros((1, 1, 4, 8), "float16")
    libcuda.stub_fail(700)
    try:
        with pytest.raises(DeviceError, match="the NVIDIA driver failed") as caught:
            memory.read(buffer, 4)
        before = libcuda.stub_allocated()
        with pytest.raises(DeviceError):
            memory.zeros((1, 1, 4, 8), "float16")
        assert libcuda.stub_allocated() == before
    finally:
        libcuda.stub_fail(0)
    assert caught.value.cause == "cuMemcpy2DUnaligned_v2: CUDA_ERROR_ILLEGAL_ADDRESS (700)"
    assert libcuda.stub_contexts() == 0


def test_a_driver_that_is_gone_does_not_keep_a_buffer_from_going(libcuda: Any) -> None:
    class Gone(Driver):  # type: ignore[misc]
        def free(self, address: int) -> None:
            super().free(address)
            super().free(address)  # what the driver says of memory that is no more

    buffer = CudaMemory(0, Gone(libcuda, 0)).zeros((1, 1, 4, 8), "float16")
    before = libcuda.stub_allocated()
    del buffer
    assert libcuda.stub_allocated() == before - 1


def test_a_gpu_that_is_not_there(libcuda: Any) -> None:
    with pytest.raises(DeviceError, match="the NVIDIA driver failed"):
        Driver(libcuda, 1)


def test_what_a_gpu_can(libcuda: Any) -> None:
    assert Driver(libcuda, 0).capability() == (8, 6)


def test_no_driver_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-of-nobody.so.1")
    driver.driver.cache_clear()
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        CudaMemory(0)


def test_the_driver_is_found_by_its_name(libcuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", libcuda._name)
    driver.driver.cache_clear()
    assert CudaMemory(0).zeros((1, 1, 2, 8), "float16").shape == (1, 1, 2, 8)
    driver.driver.cache_clear()


# A session over it


class OnHost(CudaMemory):  # type: ignore[misc]
    """ONNX Runtime is told that it is the host's, which it is."""

    device = "cpu"


@pytest.fixture(scope="module")
def tiny(hostcuda: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("decoder")
    portable = write(folder, Shape(windows=(None, 3)))
    session = on_cpu(folder, compiled(folder, portable, "fp16"), OnHost(0, Driver(hostcuda, 0)))
    whole = reference(folder / portable.path, Shape(windows=(None, 3)))
    yield Opened(folder, portable, session, whole, close=0.03)
    session.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_over_states_equals_the_text_computed_anew(seed: int, tiny: Opened) -> None:
    walk(tiny, seed, follow, empty=False)


def test_a_step_copies_nothing_of_the_cache(tiny: Opened) -> None:
    state = tiny.session.start(1, 32)
    state = follow(tiny, state, [[]], [[1, 2, 3]])
    before = {name: buffer.address for name, buffer in state.buffers.items()}
    state = follow(tiny, state, [[1, 2, 3]], [[4]])
    assert {name: buffer.address for name, buffer in state.buffers.items()} == before
    assert tiny.session.nbytes(state) == 32 * 2 * 2 * 2 * HEAD * 2  # layers, key and value, heads, dimensions, float16


def test_what_is_saved_can_be_loaded_where_caches_are_on_the_host(tiny: Opened) -> None:
    texts: list[list[int]] = [[], []]
    state = follow(tiny, tiny.session.start(2, 4), texts, [[1, 2, 3], [4]])
    saved = tiny.session.save(state)
    assert {array.dtype.name for name, array in saved.items() if name != "lengths"} == {"float16"}
    portable = Graph("m", f"{tiny.folder.name}/portable.onnx", (), (), tiny.graph.states, kind="decoder")
    noun = compiled(tiny.folder / "..", portable, "fp16")
    other = on_cpu(tiny.folder / "..", noun)
    follow(Opened(tiny.folder, noun, other, tiny.whole, 0.03), other.load(saved), texts, [[5], [6, 7]])
    other.close()


def test_a_cache_that_the_gpu_does_not_hold(tiny: Opened) -> None:
    with pytest.raises(ResourceError, match="no memory for a cache of 1 rows of 10000000 tokens") as caught:
        tiny.session.start(1, 10_000_000)
    assert "CUDA_ERROR_OUT_OF_MEMORY (2)" in caught.value.cause


# What the GPU's session does by itself


@pytest.mark.parametrize("ids", [[1, VOCABULARY, 2], [-1, 3, 4]])
def test_a_token_that_is_not_there_is_refused_before_the_gpu_takes_it_for_zeros(ids: list[int], tiny: Opened) -> None:
    with pytest.raises(InputError, match=f"no such token as {ids[0] if ids[0] < 0 else VOCABULARY}"):
        tiny.session.run({"input_ids": np.array([ids]), "counts": np.array([3])})


def test_other_feeds_that_do_not_fit_are_refused_as_everywhere(tiny: Opened) -> None:
    with pytest.raises(InputError, match="'input_ids' is missing"):
        tiny.session.run({"counts": np.array([3])})


def test_pieces_of_a_prompt_are_long(tiny: Opened) -> None:
    assert tiny.session.chunk_tokens == 512


def test_no_logits_are_none_though_one_is_computed(tiny: Opened) -> None:
    feeds = {"input_ids": np.array([[1, 2], [3, 4]]), "counts": np.array([2, 1])}
    outputs, state = tiny.session.run(feeds | {"logit_positions": np.zeros((2, 0), np.int64)})
    assert outputs["logits"].shape == (2, 0, VOCABULARY)
    follow(tiny, state, [[1, 2], [3]], [[5], [6]])


# bfloat16, which numpy does not have


def appending(folder: Path) -> Graph:
    """A cache in bfloat16 that is given out as it came in: nothing that the CPU has no kernel for."""
    cache = helper.make_tensor_value_info("past_key_values.0.key", TensorProto.BFLOAT16, ["batch", 2, "capacity", 8])
    out = helper.make_tensor_value_info("present.0.key", TensorProto.BFLOAT16, ["batch", 2, "capacity", 8])
    whole = {"input_ids": ("batch", "sequence"), "logit_positions": ("batch", "outputs")}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in whole.items()]
    inputs.append(helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]))
    inputs.append(helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []))
    nodes = [
        helper.make_node("Identity", ["past_key_values.0.key"], ["present.0.key"]),
        helper.make_node("Add", ["seqlens_k", "total_sequence_length"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["sums"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["sums", "axes"], ["logits"]),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    made = helper.make_graph(nodes, "cache", [*inputs, cache], [logits, out], [axes])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), folder / "c.onnx")
    ports = (Port("input_ids", "int64", ("batch", "sequence")), Port("logit_positions", "int64", ("batch", "outputs")))
    kept = Port("past_key_values.0.key", "bfloat16", ("batch", 2, "capacity", 8))
    present = Port("present.0.key", "bfloat16", ("batch", 2, "capacity", 8))
    logit = Port("logits", "float32", ("batch", "outputs", 1))
    states = (State(kept.name, present.name, 2),)
    return Graph("m", "c.onnx", (*ports, kept), (logit, present), states, kind="decoder")


def test_a_state_in_bfloat16_is_saved_as_its_bits(hostcuda: Any, tmp_path: Path) -> None:
    session = on_cpu(tmp_path, appending(tmp_path), OnHost(0, Driver(hostcuda, 0)))
    _, state = session.run({"input_ids": np.zeros((2, 3), np.int64), "counts": np.array([3, 2])})
    assert session.nbytes(state) == 2 * 2 * 16 * 8 * 2
    saved = session.save(state)
    assert saved["past_key_values.0.key"].dtype == np.uint16
    bits = np.arange(2 * 2 * 3 * 8, dtype=np.uint16).reshape(2, 2, 3, 8)
    bits[1, :, 2:] = 0  # behind the shorter row
    again = session.save(session.load(saved | {"past_key_values.0.key": bits}))
    np.testing.assert_array_equal(again["past_key_values.0.key"], bits)
    with pytest.raises(StateError, match=r"float16 .*, not uint16"):
        session.load(saved | {"past_key_values.0.key": bits.view(np.float16)})
    session.close()
