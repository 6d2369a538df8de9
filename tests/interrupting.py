"""An interrupt at a line of one's choice: what a signal does, without the luck."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupted_at(line: int, modules: str, work: Callable[[], object]) -> bool:
    """Do `work`, interrupted before the line number `line` that it comes to in these modules; False: it has fewer.

    Taking and giving back a lock is left out: Python hears signals only between calls, and there it hears none.
    """
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_name == "alone" or not frame.f_globals.get("__name__", "").startswith(modules):
            return None
        if event == "line":
            seen += 1
            if seen > line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False
