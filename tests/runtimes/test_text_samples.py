from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit import limits, registry
from edgekit.checks import goldens
from edgekit.errors import UsageError
from edgekit.runtimes.samples import texts as samples


def test_own_samples_are_enough_and_all_different() -> None:
    assert len(samples.TEXTS) >= 40
    assert len(set(samples.TEXTS)) == len(samples.TEXTS)
    assert len(samples.TEXTS) >= goldens.COUNT
    lengths = [len(text.split()) for text in samples.TEXTS]
    assert min(lengths) == 1
    assert max(lengths) > 30
    assert not all(text.isascii() for text in samples.TEXTS)


def test_a_file_of_samples(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\n  one \n\ntwö words\r\nlast", encoding="utf-8")
    assert samples.read(file) == ["one", "twö words", "last"]


def test_a_byte_order_mark_is_no_part_of_the_first_sample(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes("\ufeffone\ntwo".encode())
    assert samples.read(tmp_path / "mine.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no samples"), (b" \n\t\n", "has no samples"), (b"one\n\xff\xfe", "not UTF-8 text at byte 4")],
)
def test_files_without_samples(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(UsageError, match=rf"mine\.txt .*{message}") as caught:
        samples.read(tmp_path / "mine.txt")
    assert "one sample per line" in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(UsageError, match="cannot read") as caught:
            samples.read(path)
        assert "--calibration" in caught.value.hint


def test_no_file_keeps_us_waiting_or_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(UsageError, match=f"is {what}, not a regular file"):
            samples.read(path)
    (tmp_path / "mine.txt").write_text("one\n" + "two " * 20_000)
    with pytest.raises(UsageError, match=r"line 2 of mine\.txt has 79999 characters; 65536 are allowed"):
        samples.read(tmp_path / "mine.txt")
    monkeypatch.setattr(limits, "CALIBRATION_BYTES", 1000)
    with pytest.raises(UsageError, match=r"mine\.txt has more than 1\.0 kB"):
        samples.read(tmp_path / "mine.txt")


def form(task: str, texts: list[str], settings: dict[str, str]) -> list[object]:
    return list(registry.task(task).form(texts, settings))


def test_every_task_gets_its_form() -> None:
    texts = ["one", "two words", "three more words"]
    for task in ("text-classification", "feature-extraction", "token-classification"):
        assert form(task, texts, {}) == texts
    assert form("text-ranking", texts, {}) == [
        ["three more words", "one"],
        ["one", "two words"],
        ["two words", "three more words"],
    ]
    masked = form("fill-mask", [*texts, "a <mask> already"], {"mask_token": "<mask>"})
    assert masked == ["<mask>", "two <mask>", "three <mask> words", "a <mask> already"]


def words(text: str) -> int:
    return len(text.split())


def test_prompts_are_joined_until_they_are_long_enough() -> None:
    made = samples.prompts(samples.TEXTS, words, 40)
    assert all(words(prompt) >= 40 for prompt in made)
    assert len(made) >= samples.PROMPTS
    assert " ".join(samples.TEXTS).startswith(" ".join(made))


def test_prompts_end_when_there_are_tokens_enough() -> None:
    def letters(text: str) -> int:
        return 4 * len(text)

    made = samples.prompts(samples.TEXTS, letters, 1)
    assert made == list(samples.TEXTS[: samples.PROMPTS])  # although they are over the limit
    few = samples.prompts(samples.TEXTS, len, samples.MOST)  # each is over the limit by itself
    assert len(few) == samples.PROMPTS
    assert samples.prompts(samples.TEXTS, lambda text: 1, 1) == list(samples.TEXTS)


def test_too_few_texts_are_one_prompt() -> None:
    assert samples.prompts(["a b", "c"], words, 40) == ["a b c"]
