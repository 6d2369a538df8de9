"""Records with values replaced: whatever they say they are read or refused, and never end in an error of Python's."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_records import typical
from property_tests import examples

from edgekit import report
from edgekit.errors import RecordError
from edgekit.reporting import record_file

DATA = record_file.encode(typical())
VALUES = [match.span() for match in re.finditer(rb'(?<=:)(-?\d[\d.e+-]*|"[^"]*"|null|true|false)', DATA)]
HOSTILE = (
    b'"\\ud800"', b'"<script>alert(1)</script>"', b'"\\u0000\\u001b[2J"', b'"=cmd()"', b'""', b'"\xff"', b"1e308",
    b"-1e308", b"1e400", b"NaN", b"5e-324", b"-1", b"0", b"99999999999999999999", b"null", b"true", b"[]", b"{}",
    b"[[[[]]]]",
)  # fmt: skip


@pytest.mark.slow
@examples(60)
@given(place=st.integers(0, len(VALUES) - 1), value=st.sampled_from(HOSTILE))
@example(place=0, value=b'"\\ud800"')
def test_whatever_a_record_says_it_is_read_or_refused(place: int, value: bytes, tmp_path: Path) -> None:
    file, (begin, end) = tmp_path / "bench.json", VALUES[place]
    file.write_bytes(DATA[:begin] + value + DATA[end:])
    with contextlib.suppress(RecordError):
        written(report.read(file), file)


def written(record: report.Report, file: Path) -> None:
    """Every format of the record, and a page that compares it with itself."""
    page = file.with_name("page.html")
    for suffix in report.FORMATS:
        report.write(record, file.with_name(f"out{suffix}"))
    report.from_files([file, file], page, compare=True, bounds=["latency_p50>+5%"])
    assert b"<script>alert" not in page.read_bytes()
