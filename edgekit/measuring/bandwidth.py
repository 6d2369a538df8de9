"""Measure this machine's memory bandwidth in numpy: the limit of decoders, which read all weights for each token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekit.bundle.safe_files import size_text
from edgekit.errors import ResourceError
from edgekit.machine import device

SIZE = 1 << 30  # bytes: far more than a last cache holds, but for a few servers'
LEAST = 1 << 26  # below it a cache would be measured
CACHES = "cpu0/cache/index*/size"
TIMES = 3  # that the buffer is read at least, however slowly


def read_bandwidth(threads: int, seconds: float = 1.0, root: Path = device.ROOT) -> float:
    """Bytes a second that `threads` threads read together, the best time of those that fit into `seconds`.

    Each reads its own part of a buffer of a gigabyte, or of a quarter of the memory that is left.
    Raises ResourceError where that is less than twice what the processor's caches hold.
    """
    size = buffer_bytes(root)
    parts, best = np.array_split(np.ones(size // 8, np.int64), threads), 0.0
    with ThreadPoolExecutor(threads) as pool:
        begun, times = time.perf_counter(), 0
        while times < TIMES or time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, size / (time.perf_counter() - started))
            times += 1
    return best


def buffer_bytes(root: Path = device.ROOT) -> int:
    """How large a buffer to read. Raises ResourceError."""
    available = device.available_memory(root)
    size = SIZE if available is None else min(SIZE, available // 4)
    needed = max(LEAST, 2 * cache_bytes(root))
    if size < needed:
        raise ResourceError(
            f"measuring the memory bandwidth needs {size_text(needed)}, and a quarter of the free memory is "
            f"{size_text(size)}",
            hint="close other programs",
        )
    return size


def cache_bytes(root: Path = device.ROOT) -> int:
    """What the largest cache of the first core holds; 0 where the kernel does not say."""
    texts = [file.read_text(encoding="ascii").strip() for file in (root / device.CPUS).glob(CACHES)]
    return max((int(text.removesuffix("K")) << 10 for text in texts if text.removesuffix("K").isdecimal()), default=0)
