"""Chats that a template is rendered with at export: one turn, many turns, tools and thinking on and off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ChatSample:
    """Messages, and options that the template may or may not take. `is_plain`: every template must render it."""

    name: str
    messages: list[dict[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_plain: bool = False


QUESTION = {"role": "user", "content": "What is the weather in Köln?"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
NEXT = {"role": "user", "content": 'And > 20 °C, "really"?'}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}}]
CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
TOOL_TURN: list[dict[str, Any]] = [
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "sunny"},
]

CHATS = (
    ChatSample("one turn", [QUESTION], is_plain=True),
    ChatSample("many turns", [QUESTION, ANSWER, NEXT], is_plain=True),
    ChatSample("a system message", [{"role": "system", "content": "Be brief."}, QUESTION]),
    ChatSample("thinking on", [QUESTION], {"enable_thinking": True}),
    ChatSample("thinking off", [QUESTION], {"enable_thinking": False}),
    ChatSample("thoughts of an earlier turn", [QUESTION, ANSWER | {"content": "<think>\nhm\n</think>\n\nYes."}, NEXT]),
    ChatSample("tools", [QUESTION], {"tools": TOOLS}),
    ChatSample("a tool's result", TOOL_TURN, {"tools": TOOLS}),
    ChatSample("the turn after a tool's", [*TOOL_TURN, ANSWER, NEXT], {"tools": TOOLS}),
)
