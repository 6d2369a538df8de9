"""An interrupt at a place of one's choice: what a signal does, without the luck."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

# After these Python looks whether a signal has come.
LOOKS = {dis.opmap[name] for name in ("RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD") if name in dis.opmap}


@cache
def guards(code: CodeType) -> list[Any]:
    """What handles an exception, by where it comes from."""
    return list(dis.Bytecode(code).exception_entries)  # type: ignore[attr-defined]


def alike(code: CodeType, *places: int) -> bool:
    """Whether an exception at these places is handled in one way: Python raises where it called, and we right after."""
    found = [[entry.target for entry in guards(code) if entry.start <= place < entry.end] for place in places]
    return all(targets == found[0] for targets in found)


def interrupted_at(number: int, modules: str, work: Callable[[], object]) -> bool:
    """Do `work`, interrupted at the place with that number where Python would hear a signal in these modules.

    False: it has fewer.
    """
    seen, last = 0, dict[FrameType, int]()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if not frame.f_globals.get("__name__", "").startswith(modules):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "opcode":
            before, last[frame] = last.get(frame), frame.f_lasti
            if (
                before is not None
                and frame.f_code.co_code[before] in LOOKS
                and alike(frame.f_code, before, last[frame])
            ):
                seen += 1
                if seen > number:
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
