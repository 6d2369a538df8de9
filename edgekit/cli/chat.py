"""What `edgekit run` does with a language model: an answer to each prompt as it is computed, or a chat on a terminal.

Knows the Model and the console; parses no option.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.results import Result

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.model import Model

WELCOME = "Chat: Ctrl-D ends it, Ctrl-C stops an answer, /reset starts a new chat."


def messages(model: Model, text: str, system: str | None) -> Any:
    """A prompt for `generate`: chat messages where the model has a template, else the text itself."""
    if not model.bundle.settings.get("chat_template"):
        if system is not None:
            raise InputError("--system needs a model with a chat template", hint="put it before the prompt")
        return text
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]


def answers(
    console: Console, model: Model, prompts: Sequence[Any], options: Mapping[str, Any], *, silent: bool
) -> list[Result]:
    """The answers to the prompts, in order, written to stdout as they are computed unless `silent`.

    Letter by letter, or where the option `stream` is off, each answer when it is complete.
    """
    stream, options = options.get("stream", True), sampling(options)
    if silent:
        return list(model.run(prompts, **options))
    results = []
    for prompt in prompts:
        if stream:
            with model.session() as session:
                results.append(write_turn(console, session.turn(prompt, options)))
        else:
            results.append(model.generate(prompt, **options))
            console.write(results[-1].text + "\n")
    return results


def sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without `stream`, which is about writing."""
    return {name: value for name, value in options.items() if name != "stream"}


def write_turn(console: Console, turn: Any) -> Result:
    """Write a turn's pieces to stdout as they come, and return its result."""
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
    system: str | None,
    options: Mapping[str, Any],
    read: Callable[[], str] = lambda: input("> "),
) -> None:
    """A chat on the terminal until its user ends it; earlier turns stay in the state, and are not computed again."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history

    console.say(WELCOME)
    with model.session() as session:
        while True:
            try:
                text = read()
            except EOFError:
                console.write("\n")
                return
            if text.strip() == "/reset":
                session.reset()
            elif text.strip():
                prompt = messages(model, text, None if session.messages else system)
                _turn(console, session, prompt, sampling(options))


def _turn(console: Console, session: Any, prompt: Any, options: Mapping[str, Any]) -> None:
    turn = session.turn(prompt, options)
    try:
        console.detail(summary([write_turn(console, turn)]))
    except KeyboardInterrupt:
        turn.close()
        console.write("\n")
    except InputError as error:
        console.say(f"error: {error.message}")
        console.say(f"hint: {error.hint or 'type /reset to start again'}")


def summary(results: Sequence[Result]) -> str:
    """How fast the answers came, for a person."""
    new = sum(result.usage["new_tokens"] for result in results)
    first = results[0]
    speed = f", {1 / first.timings['tpot']:.1f} tokens/s after" if first.timings.get("tpot") else ""
    return f"{new} tokens, the first after {first.timings['ttft']:.2f} s{speed}; seed {first.seed}"
