"""What this process tells the kernel of its memory (madvise(2)). Linux only."""

from __future__ import annotations

import ctypes
import logging
import os

log = logging.getLogger("edgekit")


def advise(first: int, end: int, advice: int, what: str) -> None:
    """For the addresses from `first`, at a page's border, to `end`. A refusal is noted with `what` was asked for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if libc.madvise(first, end - first, advice):
        log.debug("no %s for %d bytes: %s", what, end - first, os.strerror(ctypes.get_errno()))
