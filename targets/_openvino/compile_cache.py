"""What OpenVINO compiled, kept in a folder, with a check that what comes out of it is what went in.

OpenVINO 2026.4 gives wrong numbers, without an error, for some graphs that it has exported and imports again (rotary
positions, see `_openvino_rotary`: off by their own size). So a freshly compiled model answers a fixed question, the
answer is kept beside it, and an imported one must give it again; one that does not is compiled anew, and never kept
after that. Both are also what makes the engine pack its weights before anybody waits for it.

OpenVINO's own CACHE_DIR does the same without the check; it reads the model first, to see whether it has changed, and
copies what it has kept into memory, where this maps it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import array_file, safe_files
from edgekit.errors import BundleError

if TYPE_CHECKING:
    from edgekit.core import Array, Graph

log = logging.getLogger("edgekit")

ANSWER = "answer.npz"
REFUSED = "do-not-cache"
LENGTH = 16  # of every free axis in the question, unless that makes it larger than
NUMBERS = 100_000  # in all inputs: opening a model must not take what a batch of images does
SAME = 1e-4  # of the largest number: the same kernels on the same machine repeat themselves

Ask = Callable[[Any], "dict[str, Array]"]


def compile_cached(
    core: Any, read: Callable[[], Any], path: Path, device: str, options: dict[str, Any], ask: Ask, cache: Path
) -> Any:
    """The compiled model, from `cache` where that is right. What cannot be kept is compiled each time.

    `read` gives the engine what it compiles, made of the file at `path` and those beside it; `ask` is what the
    compiled model answers to a question that is always the same.
    """
    if (cache / REFUSED).exists():
        return core.compile_model(read(), device, options)
    blob, answer = cache / f"{_key(path, options)}.blob", _answer(cache / ANSWER)
    compiled = _imported(core, blob, device, options) if answer else None
    if compiled is None:
        compiled = core.compile_model(read(), device, options)
        with _disk(cache):
            _keep(compiled, ask, blob)
        return compiled
    if repeats(ask(compiled), answer):
        return compiled
    log.warning("OpenVINO's compile cache is wrong for %s; compiling without it from now on", path.name)
    with _disk(cache):
        _clear(cache)
        (cache / REFUSED).touch()
    return core.compile_model(read(), device, options)


def ask(compiled: Any, graph: Graph) -> dict[str, Array]:
    """What the model gives for numbers drawn once and for all; bits in integer inputs, which suit ids and masks."""
    drawn, length = np.random.default_rng(0), asked(graph)
    feeds = {}
    for port in graph.inputs:
        shape = [length if isinstance(axis, str) else axis for axis in port.shape]
        numbers = drawn.standard_normal(shape) if port.dtype.startswith("float") else drawn.integers(0, 2, shape)
        feeds[port.name] = numbers.astype(port.dtype)
    request = compiled.create_infer_request()
    request.infer(feeds)
    return {port.name: request.get_tensor(port.name).data.astype(np.float32) for port in graph.outputs}


def asked(graph: Graph) -> int:
    """The length of every free axis in the question."""
    length = LENGTH
    while length > 1 and _numbers(graph, length) > NUMBERS:
        length //= 2
    return length


def _numbers(graph: Graph, length: int) -> int:
    return sum(math.prod(length if isinstance(axis, str) else axis for axis in port.shape) for port in graph.inputs)


def repeats(found: dict[str, Array], kept: dict[str, Array]) -> bool:
    """Whether an answer is the one that was kept."""
    return found.keys() == kept.keys() and all(
        array.shape == kept[name].shape
        and np.abs(kept[name] - array).max() <= SAME * max(float(np.abs(kept[name]).max()), 1e-6)
        for name, array in found.items()
    )


def _answer(file: Path) -> dict[str, Array]:
    """What was kept; nothing of a file that is missing or torn."""
    try:
        return array_file.read_npz(file)
    except (OSError, BundleError):
        return {}


def _imported(core: Any, blob: Path, device: str, options: dict[str, Any]) -> Any:
    """The model in `blob`, None where there is none that this engine takes: an old version's, another machine's, torn.

    Weights are mapped, and read when they are packed.
    """
    import openvino

    try:
        with safe_files.open_file(blob) as file:
            # A copy on write, since OpenVINO takes only what it might write to; it does not.
            mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        compiled = core.import_model(openvino.Tensor(mapped, shared_memory=True), device, options)
    except (OSError, ValueError, RuntimeError, BundleError) as error:
        log.debug("nothing was kept in %s: %s", blob, error)
        return None
    compiled.mapped = mapped  # nothing else keeps it, and the engine reads from it as long as it lives
    return compiled


def _key(path: Path, options: dict[str, Any]) -> str:
    """Of the engine, what it is told, and the files that the model is in."""
    import openvino

    beside = [(file.name, file.stat()) for file in sorted(path.parent.iterdir()) if file.is_file()]
    files = [(name, found.st_size, found.st_mtime_ns) for name, found in beside]
    told = repr((openvino.get_version(), sorted(options.items()), path.name, files))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _keep(compiled: Any, ask: Ask, blob: Path) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    _clear(blob.parent)
    with safe_files.whole_file(blob) as file:
        _export(compiled, file)  # before weights are packed, which takes memory
        with safe_files.whole_file(blob.with_name(ANSWER)) as answer:
            found: Any = ask(compiled)
            np.savez(answer, **found)


def _clear(cache: Path) -> None:
    for file in cache.iterdir():
        file.unlink(missing_ok=True)


@contextmanager
def _disk(cache: Path) -> Iterator[None]:
    """A folder that cannot be written to, or a disk that is full, is done without."""
    try:
        yield
    except OSError as error:
        log.debug("nothing that is compiled can be kept in %s: %s", cache, error)


def _export(compiled: Any, file: IO[bytes]) -> None:
    """Write the compiled model to `file`. Raises OSError."""
    stream = _Into(file)
    compiled.export_model(stream)
    if stream.error is not None:
        raise stream.error


class _Into(io.BytesIO):
    """The kind of stream that OpenVINO insists on, which keeps nothing in memory.

    It takes no notice of what a stream raises, so that is kept in `error`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)
