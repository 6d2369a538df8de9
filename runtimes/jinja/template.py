"""A parsed template that renders with bounded time and memory.

Why not jinja2, minijinja or a child process: jinja2 compiles a stranger's text to Python and bounds nothing. minijinja
counts steps, but not what a step makes (`x + x` of lists doubles for nothing), ends the process on deep sources, and
lacks what templates use (`%`, `is callable`, the arguments of `tojson`). A child process with a memory limit costs a
start per turn, or memory per model, and a fork after an engine has started is not safe. Here a value's size is known
before it is made, so one count bounds all, in the thread that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit import limits

from . import values
from .faults import Fault, LimitFault, RenderFault
from .interpreter import Interpreter, Scope
from .parser import parse
from .values import Budget, Function, Namespace
from .variables import free_names

RANGE = 100_000  # items, as in jinja2's sandbox
PYTHON = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


class Template:
    """A template's tree. Threads may share it."""

    def __init__(self, source: str) -> None:
        """Raises SyntaxFault."""
        self._body = parse(source)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the template reads and does not define, sorted."""
        return tuple(sorted(free_names(self._body) - {*_globals(Budget())}))

    def render(
        self,
        variables: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]],
        unescaped: Callable[[str], str] = lambda text: text,
    ) -> str:
        """The text. `variables`: JSON-like data; `functions`: more globals; `unescaped` changes JSON that was written.

        Raises RenderFault, LimitFault; what `functions` raise passes through, unless it is an ordinary Python error.
        """
        budget = Budget(unescaped)
        interpreter = Interpreter(budget)
        try:
            data = Budget()  # of its own: the caller's data cost the template nothing
            names = {name: data.plain(value) for name, value in variables.items()}
            around = Scope(_globals(budget) | {name: Function(name, call) for name, call in functions.items()})
            out: list[str] = []
            interpreter.run(self._body, Scope(names, around), out)
        except Fault as fault:
            fault.line = fault.line or interpreter.line
            raise
        except RecursionError as error:
            raise LimitFault("it nests too deep", interpreter.line) from error
        except PYTHON as error:
            raise RenderFault(str(error) or type(error).__name__, interpreter.line) from error
        text = "".join(out)
        if len(text) > limits.TEMPLATE_OUTPUT:
            raise LimitFault(f"it wrote more than {limits.TEMPLATE_OUTPUT} characters")
        return text


def _globals(budget: Budget) -> dict[str, Function]:
    def numbers(*ends: Any) -> values.List:
        span = range(*ends)
        if len(span) > RANGE:
            raise LimitFault(f"range() has more than {RANGE} numbers")
        return budget.new_list(span)

    def mapping(*pairs: Any, **named: Any) -> values.Dict:
        return budget.new_dict(dict(*pairs, **named))

    def cycler(*items: Any) -> Namespace:
        turns = iter(range(limits.TEMPLATE_STEPS))
        names = {"next": Function("next", lambda: items[next(turns) % len(items)])}
        return Namespace(names)

    def joiner(separator: str = ", ") -> Function:
        texts = iter([""])
        return Function("joiner", lambda: next(texts, separator))

    def namespace(*pairs: Any, **named: Any) -> Namespace:
        return Namespace(dict(*pairs, **named))

    calls: dict[str, Callable[..., Any]] = {
        "range": numbers, "dict": mapping, "namespace": namespace, "cycler": cycler, "joiner": joiner,
    }  # fmt: skip
    return {name: Function(name, call) for name, call in calls.items()}
