"""The table of tasks: every part that it names exists, and every name leads to one task."""

from __future__ import annotations

from collections import Counter

import pytest

from edgekit import registry, tasks
from edgekit.errors import UnsupportedError


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.name)
def test_parts_exist(task: tasks.Task) -> None:
    for kind, name in (("ingest", task.ingest), ("loops", task.loop), ("heads", task.head)):
        assert name in registry.names(kind)
    assert task.method in registry.find("heads", task.head).METHODS
    assert task.description


def test_no_name_has_two_meanings() -> None:
    names = Counter(name for task in tasks.TASKS for name in (task.name, *task.aliases))
    assert set(names.values()) == {1}


@pytest.mark.parametrize(("alias", "name"), [("ner", "token-classification"), ("fill-mask", "fill-mask")])
def test_find(alias: str, name: str) -> None:
    assert tasks.find(alias).name == name


def test_unknown_task_gets_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match="no task named 'text-clasification'") as caught:
        tasks.find("text-clasification")
    assert caught.value.hint == "did you mean 'text-classification'?"


def test_strange_task_gets_the_list() -> None:
    with pytest.raises(UnsupportedError) as caught:
        tasks.find("juggling")
    assert all(task.name in caught.value.hint for task in tasks.TASKS)
