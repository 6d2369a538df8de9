"""Which method of a model the user's options ask for, by comparing them with the parameters of its methods.

An option of the command has the name of a parameter. Knows no task and no option by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from edgekit.errors import UnsupportedError, UsageError

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
FIRST = "stream"  # a model that can answer sample by sample does so, unless an option asks for another method


@dataclass(frozen=True)
class Method:
    """A method as the command line calls it."""

    name: str
    items: str  # the parameter that takes the inputs
    parameters: tuple[str, ...]  # all others
    required: tuple[str, ...]  # those of them without a default


@dataclass(frozen=True)
class Call:
    """A method with the options that it is called with."""

    method: Method
    options: dict[str, Any]

    def __call__(self, model: Any, items: Any) -> Any:
        """The model's answers to the items."""
        return getattr(model, self.method.name)(**{self.method.items: items, **self.options})


def choose(model: Any, options: Mapping[str, Any], of_input: Sequence[str], flags: Mapping[str, str]) -> Call:
    """The first method that has a parameter for each option.

    `of_input`: options that say what is read, for any method. `flags`: option -> how a user writes it.
    Raises UsageError naming an option that the model does not have, or one that is missing.
    """
    methods = callable_methods(model, [name for name in flags if name not in of_input])
    wanted = {name: value for name, value in options.items() if name not in of_input}
    method = next((each for each in methods if wanted.keys() <= {*each.parameters}), None)
    if method is None:
        raise _refusal(model, methods, wanted, of_input, flags)
    if missing := [name for name in method.required if name not in wanted]:
        with_ = f" with {flags[next(iter(wanted))]}" if wanted else ""
        hint = f"`edgekit run --help` describes {flags[missing[0]]}"
        raise UsageError(f"{_title(model)} needs {flags[missing[0]]}{with_}", hint=hint)
    return Call(method, wanted)


def callable_methods(model: Any, names: Collection[str]) -> list[Method]:
    """The methods that can be called with items and options of these names; `stream` first.

    Raises UnsupportedError where there is none.
    """
    ordered = sorted(model.methods, key=lambda name: name != FIRST)
    methods = [method for name in ordered if (method := describe(name, getattr(model, name), names))]
    if not methods:
        raise UnsupportedError(
            f"{_title(model)} has no method that `edgekit run` can call", hint="call it in Python: edgekit.load(...)"
        )
    return methods


def describe(name: str, function: Callable[..., Any], names: Collection[str]) -> Method | None:
    """The method's parameters; None where options of these names and items are not enough, or where it is async.

    Items go to the one required positional parameter that is not an option, or to the only one.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return None
    parameters = list(inspect.signature(function).parameters.values())
    required = [each.name for each in parameters if each.default is each.empty and each.kind is POSITIONAL]
    free = required if len(required) == 1 else [each for each in required if each not in names]
    if len(free) != 1:
        return None
    options = [option for each in parameters if each.name != free[0] for option in _options(each, function)]
    return Method(name, free[0], tuple(options), tuple(each for each in required if each != free[0]))


def _options(parameter: inspect.Parameter, function: Callable[..., Any]) -> list[str]:
    """Names of options: the parameter's own, or the keys of the TypedDict behind `**options: Unpack[...]`."""
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        return [parameter.name]
    holder = SimpleNamespace(__annotations__={"options": parameter.annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    hint = get_type_hints(holder, globalns=names, include_extras=True)["options"]
    return list(get_args(hint)[0].__annotations__) if get_origin(hint) is Unpack else []


def _refusal(
    model: Any, methods: Sequence[Method], wanted: Mapping[str, Any], of_input: Sequence[str], flags: Mapping[str, str]
) -> UsageError:
    """The error for options that no method takes, or no method takes together."""
    own = methods[0]
    hint = f"{own.name} takes {_listed(own, of_input, flags)}"
    known = {name for method in methods for name in method.parameters}
    for name in wanted:
        if name not in known:
            return UsageError(f"{_title(model)} has no {flags[name]}", hint=hint)
    best = max(methods, key=lambda method: len(wanted.keys() & {*method.parameters}))
    other = next(name for name in wanted if name not in best.parameters)
    together = " ".join(flags[name] for name in wanted if name in best.parameters)
    hint = f"{best.name} takes {_listed(best, of_input, flags)}"
    return UsageError(f"{_title(model)} has no {flags[other]} together with {together}", hint=hint)


def _listed(method: Method, of_input: Sequence[str], flags: Mapping[str, str]) -> str:
    return ", ".join(flag for name, flag in flags.items() if name in of_input or name in method.parameters) or "none"


def _title(model: Any) -> str:
    return f"{model.bundle.name} ({model.bundle.task})"
