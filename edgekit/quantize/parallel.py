"""Apply a function to numpy arrays on all cores of this process, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgekit.machine import device

Part = TypeVar("Part")


def at_once(work: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """`work` on each part, as many at a time as there are cores. Raises what the first of them raises."""
    with ThreadPoolExecutor(device.threads()) as pool:
        for job in [pool.submit(work, part) for part in parts]:
            job.result()
