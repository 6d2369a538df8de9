"""Wait in a coroutine for an engine run in a thread, which cannot be interrupted.

Knows nothing of what is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_for(call: Callable[[], T], stopped: threading.Event | None = None) -> T:
    """What `call` gives, in a thread.

    Cancelled, it sets `stopped`, and waits on, however often it is cancelled: nobody else may have the engine's state.
    """
    step = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        if stopped is not None:
            stopped.set()
        while not step.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([step])
        if not step.cancelled():
            step.exception()  # the caller has gone: nobody is left to tell
        raise
