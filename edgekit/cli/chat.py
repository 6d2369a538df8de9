"""What `edgekit run` does with a language model: an answer to each prompt as it is computed, or a chat on a terminal.

Knows the Model and the console; parses no option.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.cli.text_run import UNSAID
from edgekit.errors import InputError
from edgekit.results import Result

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.model import Model

WELCOME = "Chat: Ctrl-D ends it, Ctrl-C stops an answer, /reset forgets what was said."


def messages(model: Model, text: str, system: str | None) -> Any:
    """A prompt for `generate`: a chat where the model has a template, else the text itself."""
    if not model.bundle.settings.get("chat_template"):
        if system is not None:
            raise InputError("--system needs a model with a chat template", hint="put it before the prompt")
        return text
    said = [{"role": "system", "content": system}] if system is not None else []
    return [*said, {"role": "user", "content": text}]


def answer(
    console: Console, model: Model, texts: Sequence[str], choices: Mapping[str, Any], *, stream: bool
) -> list[Result]:
    """The answers to the texts, in order; with `stream` they go to stdout, letter by letter unless told otherwise."""
    prompts, options = [messages(model, text, choices["system"]) for text in texts], asked(choices)
    if not stream:
        return list(model.run(prompts, **options))
    found = []
    for prompt in prompts:
        if choices["no_stream"]:
            found.append(model.generate(prompt, **options))
            console.write(found[-1].text + "\n")
        else:
            with model.session() as chat:
                found.append(spoken(console, chat.turn(prompt, options)))
    return found


def asked(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The options that `generate` takes."""
    own = ("system", "no_stream")
    return {name: value for name, value in choices.items() if name not in own and value not in UNSAID}


def spoken(console: Console, turn: Any) -> Result:
    """Write a turn's pieces as they come; its result."""
    for item in turn:
        if isinstance(item, Result):
            console.write("\n")
            return item
        if item.text:
            console.write(item.text)
    raise AssertionError("a turn ends with its result")


def converse(
    console: Console,
    model: Model,
    choices: Mapping[str, Any],
    read: Callable[[], str] = lambda: input("> "),
) -> None:
    """A chat on the terminal until its user ends it; what was said stays in the state, and is not computed again."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history

    console.say(WELCOME)
    with model.session() as chat:
        while True:
            try:
                text = read()
            except EOFError:
                console.write("\n")
                return
            if text.strip() == "/reset":
                chat.reset()
            elif text.strip():
                system = None if chat.messages else choices["system"]
                _turn(console, chat, messages(model, text, system), asked(choices))


def _turn(console: Console, chat: Any, prompt: Any, options: Mapping[str, Any]) -> None:
    turn = chat.turn(prompt, options)
    try:
        console.detail(summary([spoken(console, turn)]))
    except KeyboardInterrupt:
        turn.close()
        console.write("\n")
    except InputError as error:
        console.say(f"error: {error.message}")
        console.say(f"hint: {error.hint or 'say /reset to begin anew'}")


def summary(found: Sequence[Result]) -> str:
    """How fast the answers came, for a person."""
    new = sum(result.usage["new_tokens"] for result in found)
    first = found[0]
    speed = f", {1 / first.timings['tpot']:.1f} tokens/s after" if first.timings.get("tpot") else ""
    return f"{new} tokens, the first after {first.timings['ttft']:.2f} s{speed}; seed {first.seed}"
