"""Bytes a second that so many threads read from this machine's memory, the best of seven times.

    python tests/benchmarks/bandwidth.py 2

What bounds a decoder: every token reads every weight. A process of its own, as it holds a gigabyte.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SIZE = 1 << 30


def measure(threads: int) -> float:
    parts, best = np.array_split(np.ones(SIZE // 8, np.int64), threads), 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(7):
            begun = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, SIZE / (time.perf_counter() - begun))
    return best


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
