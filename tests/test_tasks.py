"""Every file of runtimes/tasks: its class, its docstring, its names, and what the house asks of a task."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from edgekit import registry
from edgekit.core import SCENARIOS
from edgekit.errors import UnsupportedError
from edgekit.model import Model

TASKS = registry.tasks()
ASKED = ("samples", "encode", "outputs")  # of every task, by gate, goldens, verify and bench; besides `compare`


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_class_with_documented_methods(task: registry.TaskFile) -> None:
    kind = registry.task(task.name)
    assert issubclass(kind, Model)
    assert registry.task_of(kind) == task.name
    assert task.description
    assert kind.INPUT
    assert {*kind.SCENARIOS, *kind.MORE_SCENARIOS} <= set(SCENARIOS)
    for name in kind.METHODS:
        assert inspect.getdoc(getattr(kind, name)), name


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_it_answers_what_the_house_asks(task: registry.TaskFile) -> None:
    kind = registry.task(task.name)
    assert all(getattr(kind, name).__qualname__ != f"Model.{name}" for name in ASKED)
    assert hasattr(kind, "head") or kind.compare.__qualname__ != "Model.compare"
    assert set(kind.BUDGET) == {"fp32", "bf16", "fp16", "int8", "int4"}


def test_the_base_leaves_these_functions_to_the_task() -> None:
    with pytest.raises(NotImplementedError, match=r"Model\.samples"):
        Model.samples(None)  # type: ignore[arg-type]
    for name in ("encode", "outputs"):
        with pytest.raises(NotImplementedError, match=f"Model.{name}"):
            getattr(Model, name)(object.__new__(Model), [])


def test_no_name_has_two_meanings() -> None:
    names = Counter(name for task in TASKS for name in (task.name, *task.aliases))
    assert set(names.values()) == {1}


@pytest.mark.parametrize(("alias", "name"), [("ner", "token-classification"), ("fill-mask", "fill-mask")])
def test_an_alias_leads_to_its_task(alias: str, name: str) -> None:
    assert registry.task_name(alias) == name


@pytest.mark.parametrize("find", [registry.task_name, registry.task])
def test_unknown_task_gets_the_nearest(find: object) -> None:
    with pytest.raises(UnsupportedError, match="no task named 'text-clasification'") as caught:
        find("text-clasification")  # type: ignore[operator]
    assert caught.value.hint == "did you mean 'text-classification'?"


@pytest.mark.parametrize("find", [registry.task_name, registry.task])
def test_strange_task_gets_the_list(find: object) -> None:
    with pytest.raises(UnsupportedError) as caught:
        find("juggling")  # type: ignore[operator]
    assert all(task.name in caught.value.hint for task in TASKS)
