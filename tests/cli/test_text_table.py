"""Tables as text: whole in a pipe, never wider than a terminal, coloured only there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections import Counter

import pytest

from edgekit.text_table import pairs, table

HEADS = ("variant", "latency", "why")
ROWS = [
    ("cpu/int8-dynamic", "9.30 ms", "its outputs differ from the goldens by more than the tolerance allows"),
    ("openvino/int8-dynamic", "11.2 ms", ""),
]


def test_a_pipe_gets_one_whole_line_per_row() -> None:
    lines = table(HEADS, ROWS).splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("than the tolerance allows")
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_limit_and_no_word_is_lost(width: int) -> None:
    text = table(HEADS, ROWS, width=width)
    assert max(map(len, text.splitlines())) <= width
    letters = Counter(re.sub(r"\s", "", text))
    for letter, count in Counter(re.sub(r"\s", "", "".join(map("".join, ROWS)))).items():
        assert letters[letter] >= count, letter


def test_names_and_numbers_do_not_wrap_while_text_can() -> None:
    text = table(HEADS, ROWS, width=60)
    assert "openvino/int8-dynamic" in text
    assert "9.30 ms" in text
    assert "11.2 ms" in text


def test_a_head_of_several_words_wraps_above_narrow_numbers() -> None:
    lines = table(("name", "peak memory"), [("x", "1 MB")], width=12).splitlines()
    assert lines == ["name    peak", "      memory", "x       1 MB"]


def test_a_screen_that_is_too_narrow_for_columns_gets_blocks() -> None:
    heads = ("variant", *(f"figure{number}" for number in range(8)))
    text = table(heads, [("cpu/fp32", *("123.4 ms" for _ in range(8)))], width=40)
    assert text.splitlines()[:2] == ["cpu/fp32", "  figure0  123.4 ms"]


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_its_width_and_colours(settings: dict[str, str], coloured: bool) -> None:
    program = (
        "from edgekit.text_table import table, pairs\n"
        "print(table(('variant', 'state', 'why'), [('cpu/fp32', 'FAILED', 'word ' * 30)]))\n"
        "print(pairs({'name': 'word ' * 30}))"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "50", **settings}
    if not settings.get("NO_COLOR"):
        environment.pop("NO_COLOR", None)
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert ("\x1b[31mFAILED" in text) is coloured
    plain = re.sub(r"\x1b\[\d+m", "", text)
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 50
    assert plain.count("word") == 60


def test_pairs_leave_out_what_is_empty() -> None:
    assert pairs({"a": 1, "long name": "x", "b": None, "c": ""}) == "a          1\nlong name  x"
