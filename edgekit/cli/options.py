"""Command classes, parameter types and options that the commands share. Knows no single command."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from edgekit import limits, registry
from edgekit.cli.console import Console
from edgekit.errors import UsageError

UNITS = ("", "k", "m", "g", "t")
TARGETS = registry.names("targets")
BUNDLE_ENDING = ".ek"
# What other programs call it -> what to type here, by a command's word and by an option.
OTHER_COMMANDS = {
    "version": "edgekit --version",
    "chat": "edgekit run BUNDLE, without a prompt",
    "generate": "edgekit run BUNDLE -p PROMPT",
    "embed": "edgekit run BUNDLE TEXT",
    "convert": "edgekit export MODEL -o BUNDLE",
    "quantize": "edgekit export MODEL -o BUNDLE --precision int8",
    "benchmark": "edgekit bench BUNDLE",
    "compare": "edgekit report --compare BEFORE.json AFTER.json",
    "check": "edgekit verify BUNDLE",
    "info": "edgekit inspect BUNDLE",
}
OTHER_OPTIONS = {
    "--device": "--target",
    "--provider": "--target",
    "--backend": "--target",
    "--quantize": "--precision",
    "--dtype": "--precision",
    "--output-dir": "--output",
    "--max-tokens": "--max-new-tokens",
}
F = TypeVar("F", bound=Callable[..., Any])


def print_option(*names: str, text: str, output: Callable[[click.Context], str]) -> click.Option:
    """An option that writes `output` to stdout and ends the command."""

    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.ensure_object(Console).write(output(ctx) + "\n")
            ctx.exit()

    return click.Option(names, is_flag=True, is_eager=True, expose_value=False, help=text, callback=callback)


class Count(click.ParamType):  # type: ignore[type-arg]
    """A whole number of `lowest` to `highest`. Unlike click's own type it adds no range to --help."""

    name = "integer"

    def __init__(self, lowest: int = 1, highest: int = limits.REPEATS) -> None:
        self.lowest, self.highest = lowest, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if not self.lowest <= number <= self.highest:
            self.fail(f"{number} is not a whole number from {self.lowest} to {self.highest}", param, ctx)
        return number


COUNT = Count()
THREADS = Count(1, limits.THREADS)
HELP = print_option("-h", "--help", text="Show this message and exit.", output=lambda ctx: ctx.get_help())


class Command(click.Command):
    """A command whose help begins with examples: the lines of its docstring that start with `$ `."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = inspect.cleandoc(self.help or "").splitlines()
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line[2:]}\n" for line in lines if line.startswith("$ ")))
        formatter.write_paragraph()
        super().format_help(ctx, formatter)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = inspect.cleandoc(self.help or "").splitlines()
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n".join(line for line in lines if not line.startswith("$ ")).strip())

    def get_help_option(self, ctx: click.Context) -> click.Option:
        return HELP


class GroupedOption(click.Option):
    """An option that --help lists under the heading `group`."""

    def __init__(self, *names: Any, group: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What click adds to the help text, without the range of a number."""
        return {name: text for name, text in super().get_help_extra(ctx).items() if name != "range"}


class GroupedCommand(Command):
    """A command whose --help lists options under headings; the switches of every command stand under "Common"."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Common": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record:
                groups.setdefault(getattr(param, "group", "Common"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


class CommandGroup(Command, click.Group):
    """A group that lists its commands in the order they were added, and suggests a name for a misspelled one."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            raise UsageError("no command given", hint=f"the commands are: {', '.join(self.commands)}")
        if args[:1] == ["help"]:
            args = [*args[1:2], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            other, known = OTHER_COMMANDS.get(args[0]), list(self.commands)
            hint = f"that is: {other}" if other else registry.suggest(args[0], known)
            hint = hint or f"the commands are: {', '.join(known)}"
            raise UsageError(f"no command named {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)


def one_of(noun: str, known: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments for an option or argument that takes one of `known`; an error suggests the nearest name."""

    def convert(value: str) -> str:
        if value not in known:
            hint = registry.suggest(value, list(known)) or f"known: {', '.join(known)}"
            raise UsageError(f"no {noun} named {value!r}", hint=hint)
        return value

    def complete(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:
        return [name for name in known if name.startswith(start)]

    return {"type": convert, "metavar": "|".join(known), "shell_complete": complete}


def size(text: str) -> int:
    """Bytes from 512M or 1.5GiB (powers of 1024), or 2GB (powers of 1000)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?b)?", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write it like 512M, 1.5GiB or 2GB")
    base = 1000 if match[3] == "b" else 1024
    return int(float(match[1]) * base ** UNITS.index(match[2]))


def seconds(text: str) -> float:
    """Seconds from 90, 90s, 15m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([smh]?)", text.lower())
    if match is None or not float(match[1]):
        raise UsageError(f"{text!r} is not a time", hint="write it like 90s, 15m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def loss(text: str) -> float:
    """A share from 0 to 1. NaN is refused, which click's own range type would accept."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{text!r} is not a share from 0 to 1", hint="write 0.01 for one per cent")
    return value


def engine_options(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`openvino:CPU_RUNTIME_CACHE_CAPACITY=64`, once or more, as target -> name -> value."""
    options: dict[str, dict[str, str]] = {}
    for text in values:
        match = re.fullmatch(r"(\w+):([\w.]+)=(.+)", text)
        if match is None:
            raise UsageError(f"{text!r} is not an engine option", hint="write it TARGET:NAME=VALUE")
        target, name, value = match.groups()
        options.setdefault(target, {})[name] = value
    return options


def states(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """`hn=h0` as input -> output, each input once."""
    outputs: dict[str, str] = {}
    for text in values:
        out, _, into = text.partition("=")
        if not out or not into or into in outputs:
            raise UsageError(
                f"{into!r} is the input of two states" if into in outputs else f"{text!r} is not a state",
                hint="write it OUT=IN, the output first: hn=h0",
            )
        outputs[into] = out
    return outputs


def constants(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`sr=16000` or `scale=[1, 2]`, once or more, as name -> value; a value is JSON."""
    found: dict[str, Any] = {}
    for text in values:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value, parse_constant=_no_constant)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"{text!r} is not a constant input", hint="write it NAME=VALUE: sr=16000 or 'k=[1, 2]'")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN, Infinity


def shapes(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, list[int | str]]:
    """`x=batch,576`, once or more, as name -> axes."""
    found: dict[str, list[int | str]] = {}
    for text in values:
        name, _, axes = text.partition("=")
        parts = [axis.strip() for axis in axes.split(",")]
        if not name or not all(re.fullmatch(r"[0-9]{1,10}|[A-Za-z_]\w*", axis, re.ASCII) for axis in parts):
            raise UsageError(
                f"{text!r} is not a shape", hint="write it NAME=AXES, a length or a name each: x=batch,576"
            )
        found[name] = [int(axis) if axis.isdecimal() else axis for axis in parts]
    return found


def complete_bundle(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """The bundles of a folder, as whole words; where there is none, any path."""
    folder, _, _ = start.rpartition("/")
    try:
        names = sorted(entry.name for entry in os.scandir(folder or ".") if entry.name.endswith(BUNDLE_ENDING))
    except OSError:
        names = []
    paths = [f"{folder}/{name}" if folder else name for name in names]
    near = [CompletionItem(path) for path in paths if path.startswith(start)]
    return near or [CompletionItem(start, type="file")]


def complete_model(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """The zoo's models, and any path."""
    from edgekit import zoo

    models = [CompletionItem(f"zoo:{name}") for name in zoo.names() if f"zoo:{name}".startswith(start)]
    return models if start.startswith("zoo:") else [*models, CompletionItem(start, type="file")]


def complete_task(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:
    """The tasks' names and aliases."""
    return [name for task in registry.tasks() for name in (task.name, *task.aliases) if name.startswith(start)]


BUNDLE = click.argument("bundle", type=click.Path(path_type=Path), shell_complete=complete_bundle)
VERIFY = click.option(
    "--verify",
    **one_of("choice", ("always", "once", "never")),
    default="once",
    help="When to check the files' digests.  [once]",
)


def _switch(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    console = ctx.ensure_object(Console)
    setattr(console, str(param.name), value)
    if console.quiet and console.verbose:
        raise UsageError("-q and -v exclude each other")


def output_switches(command: F) -> F:
    """Add --json, -q and -v, which every command has; they set fields of the console, not arguments of the command."""
    switch = partial(click.option, is_flag=True, expose_value=False, callback=_switch)
    command = switch("-v", "--verbose", help="Write more to stderr: every step, timings, causes.")(command)
    command = switch("-q", "--quiet", help="Write nothing but errors to stderr.")(command)
    return switch("--json", help="Write one JSON object to stdout, errors too.")(command)


def usage_error(error: click.UsageError) -> UsageError:
    """click's error as ours, with the nearest option's name where one was misspelled."""
    command = error.ctx.command_path if error.ctx else "edgekit"
    if isinstance(error, click.NoSuchOption):
        known = [name for param in error.ctx.command.get_params(error.ctx) for name in param.opts] if error.ctx else []
        near = difflib.get_close_matches(error.option_name, known, n=1, cutoff=0.7)
        near = [OTHER_OPTIONS[error.option_name]] if OTHER_OPTIONS.get(error.option_name) in known else near
        hint = f"did you mean {near[0]!r}?" if near else f"see {command} --help"
        return UsageError(f"{command} has no option {error.option_name}", hint=hint)
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"see {command} --help")
