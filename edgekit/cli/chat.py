"""What `edgekit run` does with a language model: an answer to each prompt as it is computed, or a chat on a terminal.

Knows the Model and the console; parses no option.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from edgekit.cli import signals
from edgekit.errors import InputError, UsageError
from edgekit.results import Result

if TYPE_CHECKING:
    from edgekit.cli.console import Console
    from edgekit.model import Model

COMMANDS = "/reset starts a new chat, /bye or Ctrl-D ends it, Ctrl-C stops an answer, /help says this again."


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
    """A chat on the terminal until its user ends it; earlier turns stay in the state, and are not computed again.

    Raises UsageError for a model that has no chat template.
    """
    if not model.bundle.settings.get("chat_template"):
        hint = f'give a text to continue: edgekit run {model.bundle.name} -p "Once upon a time"'
        raise UsageError(f"no input, and {model.bundle.name} has no chat template to chat with", hint=hint)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history

    console.say(f"Chat with {model.bundle.name}, {model.variant.name}. {COMMANDS}")
    with model.session() as session:
        while (text := _line(console, read)) is not None:
            if text == "/reset":
                session.reset()
                console.say("new chat")
            elif text in ("/help", "/?"):
                console.say(COMMANDS)
            elif text:
                prompt = messages(model, text, None if session.messages else system)
                _turn(console, session, prompt, sampling(options))


def _line(console: Console, read: Callable[[], str]) -> str | None:
    """The next line of the user, without spaces at its ends; None at the end. Ctrl-C gives a hint."""
    while True:
        try:
            with signals.raised():  # each line anew: a second Ctrl-C is not a second one of the command
                text = read().strip()
        except EOFError:
            console.write("\n")
            return None
        except KeyboardInterrupt as interrupt:
            if getattr(interrupt, "number", SIGINT) != SIGINT:
                raise
            console.write("\n")
            console.say("Ctrl-D or /bye ends the chat")
        else:
            return None if text in ("/bye", "/exit") else text


def _turn(console: Console, session: Any, prompt: Any, options: Mapping[str, Any]) -> None:
    turn = session.turn(prompt, options)
    try:
        with signals.raised():
            console.detail(summary([write_turn(console, turn)], options))
    except KeyboardInterrupt as interrupt:
        turn.close()
        if getattr(interrupt, "number", SIGINT) != SIGINT:
            raise
        console.write("\n")
    except InputError as error:
        console.say(f"error: {error.message}")
        console.say(f"hint: {error.hint or 'type /reset to start again'}")


def summary(results: Sequence[Result], options: Mapping[str, Any]) -> str:
    """How fast the answers came, for a person; with a temperature, also the seed that gives the same answer."""
    new = sum(result.usage["new_tokens"] for result in results)
    first = results[0]
    speed = f", {1 / first.timings['tpot']:.1f} tokens/s after" if first.timings.get("tpot") else ""
    seed = f"; seed {first.seed}" if options.get("temperature") else ""
    return f"{new} tokens, the first after {first.timings['ttft']:.2f} s{speed}{seed}"
