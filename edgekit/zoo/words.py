"""Numbers in English words: the one small world that every model of the zoo is trained on.

Also which numbers no recipe may train on. Knows nothing of models, tokenizers or files; stdlib only.
"""

from __future__ import annotations

import zlib

LIMIT = 1_000_000  # the world: 0 … 999,999

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ("hundred", "thousand")
_IRREGULAR = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip


def cardinal(n: int) -> str:
    """347 -> `three hundred forty-seven`: American English, without "and", for 0 <= n < LIMIT."""
    assert 0 <= n < LIMIT, n
    thousands, rest = divmod(n, 1000)
    if not thousands:
        return _below_thousand(rest)
    head = f"{_below_thousand(thousands)} thousand"
    return f"{head} {_below_thousand(rest)}" if rest else head


def ordinal(n: int) -> str:
    """347 -> `three hundred forty-seventh`, for 1 <= n < LIMIT."""
    assert n > 0, n
    text = cardinal(n)
    start = max(text.rfind(" "), text.rfind("-")) + 1
    last = text[start:]
    if last in _IRREGULAR:
        return text[:start] + _IRREGULAR[last]
    return text[:start] + (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")


def year(n: int) -> str:
    """1984 -> `nineteen eighty-four`, as years are read aloud, for 1100 <= n < 2100.

    1905 is `nineteen oh five`, 1900 `nineteen hundred`; 2000 to 2009 read like the cardinals that they are.
    """
    assert 1100 <= n < 2100, n
    if 2000 <= n < 2010:
        return cardinal(n)
    century, rest = divmod(n, 100)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {cardinal(rest)}" if rest > 9 else f"{cardinal(century)} oh {cardinal(rest)}"


def held_out(n: int) -> bool:
    """Whether n is for testing only: about every tenth number above twenty, on every machine and for every model.

    Up to twenty each number has a word of its own, which a model can only learn by seeing it.
    """
    return n > 20 and zlib.crc32(str(n).encode()) % 10 == 0


def _below_thousand(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    if not hundreds:
        return _below_hundred(rest)
    head = f"{UNITS[hundreds]} hundred"
    return f"{head} {_below_hundred(rest)}" if rest else head


def _below_hundred(n: int) -> str:
    if n < 20:
        return UNITS[n]
    tens, rest = divmod(n, 10)
    return f"{TENS[tens - 2]}-{UNITS[rest]}" if rest else TENS[tens - 2]
