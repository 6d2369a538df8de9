"""The table of README.md: it has every row once, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
LINES = [line.split("|")[1:-1] for line in (TESTS / "faults" / "README.md").read_text().splitlines()]
ROWS = {cells[0].strip(): cells for cells in LINES if cells and re.fullmatch(r" [A-E][0-9]+ ", cells[0])}
COUNTS = {"A": 20, "B": 10, "C": 6, "D": 15, "E": 6}


def test_every_row_is_there() -> None:
    assert list(ROWS) == [f"{group}{number}" for group, count in COUNTS.items() for number in range(1, count + 1)]


def test_every_row_has_tests_or_says_why_not() -> None:
    without = {row for row, (_, _, tests, _) in ROWS.items() if "::" not in tests}
    assert without == {row for row, (*_, result) in ROWS.items() if result.strip() == "not built"}


def test_every_test_that_is_named_is_there() -> None:
    named = {name for _, _, tests, _ in ROWS.values() for name in re.findall(r"`([^`]+)`", tests)}
    files = {name.partition("::")[0] for name in named}
    there = {f"{file}::{test}" for file in files if (TESTS / file).is_file() for test in functions(TESTS / file)}
    assert sorted(named - there) == []


def functions(file: Path) -> list[str]:
    return [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
