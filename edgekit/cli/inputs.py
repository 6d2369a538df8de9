"""What `edgekit run` reads for each value of `Model.INPUT`: texts, prompts, images, series.

One entry per value in `KINDS`. Loads no model, parses no option, and shows nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from edgekit import limits, registry
from edgekit.cli import chat
from edgekit.cli.input_lines import Lines
from edgekit.cli.sample_source import Rows
from edgekit.errors import InputError, UnsupportedError, UsageError

STDIN = "-"
HINT = "give inputs as arguments, or pipe them in; for texts, one per line"
IMAGE_HINT = "give a PNG, JPEG, WEBP or BMP file, or a folder of them"
ARRAYS_HINT = "name an .npz file, as numpy.savez(file, x=array) writes it"
IMAGE_BYTES = 256 << 20  # of an image on stdin


@dataclass(frozen=True)
class Words:
    """What the user gave to read, in words of the command line."""

    inputs: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()  # -p
    images: tuple[str, ...] = ()  # -i
    system: str | None = None
    files: tuple[str, ...] = ()  # -f
    on_error: str | None = None  # what becomes of a bad row of a series
    keep: tuple[str, ...] = ()  # columns of a series that go with each result
    is_raw: bool = False  # --parse-special: a prompt is the model's own text, not a message

    @property
    def all(self) -> tuple[str, ...]:
        """All words, or `-` where stdin is to be read because there is none."""
        words = (*self.inputs, *self.images, *self.files, *self.prompts)
        return words if words or sys.stdin is None or sys.stdin.isatty() else (STDIN,)

    @property
    def on_terminal(self) -> bool:
        """Whether there are no words, and stdin is a terminal."""
        return not self.all and sys.stdin is not None


@dataclass(frozen=True)
class Samples:
    """The rows of one CSV input, read as they are used; see `edgekit.cli.sample_source`."""

    name: str
    rows: Rows


def reads_stdin(words: Words) -> bool:
    """Whether stdin is one of the inputs of a series."""
    return STDIN in (words.all or (STDIN,))


def reads_terminal(words: Words) -> bool:
    """Whether a series is typed."""
    return reads_stdin(words) and sys.stdin is not None and sys.stdin.isatty()


def no_names(items: Any) -> list[str]:
    """Items that are not files have no names."""
    return []


@dataclass(frozen=True)
class Kind:
    """How inputs of one kind are read. `read` takes the model and the words."""

    read: Callable[[Any, Words], Any]
    noun: str
    options: tuple[str, ...] = ("prompts",)  # of the command, that say what to read
    names: Callable[[Any], list[str]] = no_names  # of the items, for output


def kind(model: Any) -> Kind:
    """How the model's inputs are read. Raises UnsupportedError where this command cannot read them."""
    if model.INPUT not in KINDS:
        raise UnsupportedError(
            f"`edgekit run` cannot read {model.INPUT!r}, which {model.bundle.name} ({model.bundle.task}) takes",
            hint="call the model in Python: edgekit.load(...)",
        )
    return KINDS[model.INPUT]


def check(words: Words, *, terminal: bool) -> None:
    """Raise UsageError where there is nothing to read. `terminal`: a chat may take its prompts from a terminal."""
    if not words.all and not (terminal and words.on_terminal):
        raise UsageError("no input", hint=HINT)


def texts(model: Any, words: Words) -> list[str]:
    """The texts, with the lines of stdin in place of `-`. Raises UsageError, InputError for what is not UTF-8."""
    return [text for part in _text_parts(words) for text in ([part] if isinstance(part, str) else part)]


def prompts(model: Any, words: Words) -> list[Any]:
    """Prompts for a language model, as chat messages where it has a template; stdin is one prompt."""
    parts = [part if isinstance(part, str) else "\n".join(part) for part in _text_parts(words)]
    return parts if words.is_raw else [chat.messages(model, part, words.system) for part in parts]


def _text_parts(words: Words) -> list[str | list[str]]:
    """Each word, with a list of lines in place of `-`, unless stdin is empty."""
    # Everything behind -p is a text, `-` too.
    sources = words.inputs or (() if words.prompts or words.files else words.all)
    parts: list[str | list[str]] = [list(_stdin_lines()) if word == STDIN else word for word in sources]
    parts += [list(_file_lines(name)) for name in words.files]
    parts = [part for part in [*parts, *words.prompts] if part != []]
    if not parts:
        raise UsageError("no input", hint=HINT)
    for part in parts:
        letters = part if isinstance(part, str) else ""
        if not letters.isascii() and any("\ud800" <= letter <= "\udfff" for letter in letters):
            raise InputError(f"{letters[:40]!a} is not UTF-8", hint="check the terminal's encoding (LANG, LC_ALL)")
    return parts


def _stdin_lines() -> Iterator[str]:
    """The lines of stdin. Raises InputError."""
    return iter(()) if sys.stdin is None else _text_lines(sys.stdin.buffer, STDIN)


def _file_lines(name: str) -> Iterator[str]:
    """The lines of a file, or of stdin for `-`. Raises InputError."""
    with _file(name, "name a text file with one text per line") as file:
        yield from _text_lines(file, name)


def _text_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Raises InputError for a line that is not UTF-8 or too long, and for more than `edgekit.limits` allows."""
    letters = 0
    for number, line in enumerate(Lines(file, title(name), limits.PROMPT_BYTES, "is it text?"), start=1):
        letters += len(line)
        if letters > limits.INPUT_LETTERS or number > limits.INPUT_LINES:
            most = f"{limits.INPUT_LINES} lines or {limits.INPUT_LETTERS} characters"
            raise InputError(f"{title(name)} has more than {most}", hint="give it in parts: head -n 1000000")
        yield line.rstrip("\r\n")


def names_of_files(words: Words) -> list[str]:
    """The inputs that are the names of files here, but are read as texts."""
    return [word for word in words.inputs if word != STDIN and "\0" not in word and os.path.isfile(word)]


def images(model: Any, words: Words) -> list[Path | bytes]:
    """Image files, the sorted images of a folder in its place, and the bytes of stdin for `-`.

    Raises InputError for a path that is not there, UsageError.
    """
    items: list[Path | bytes] = []
    for word in words.all:
        if word == STDIN:
            items += _stdin_image()
        elif _is_folder(word):
            items += registry.find("ingest", "image").paths(word)
        else:
            items.append(Path(word))
    if not items:
        raise UsageError("no input", hint=IMAGE_HINT)
    return items


def image_names(items: Sequence[Path | bytes]) -> list[str]:
    """Names of files, or whole paths where two files have the same name."""
    paths = [item if isinstance(item, Path) else Path(STDIN) for item in items]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _is_folder(word: str) -> bool:
    try:
        Path(word).stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(
            f"cannot read {word!a}: {getattr(error, 'strerror', None) or error}", hint=IMAGE_HINT
        ) from None
    return Path(word).is_dir()


def _stdin_image() -> list[bytes]:
    image = b"" if sys.stdin is None else sys.stdin.buffer.read(IMAGE_BYTES + 1)
    if len(image) > IMAGE_BYTES:
        raise InputError(f"the image on stdin has more than {IMAGE_BYTES} bytes", hint="give a smaller file")
    return [image] if image else []


def arrays(model: Any, words: Words) -> list[Any]:
    """The arrays of each .npz file, or .npy file where the model has one input. Raises InputError."""
    load = import_module("edgekit.runtimes.samples.arrays").load
    names = [port.name for port in model.graph().inputs]
    if STDIN in words.all:
        raise UsageError("arrays cannot be read from stdin", hint=ARRAYS_HINT)
    if not words.all:
        raise UsageError("no input", hint=ARRAYS_HINT)
    return [load(Path(word), names) for word in words.all]


def tables(model: Any, words: Words) -> Iterator[Samples]:
    """Each CSV file, or stdin, opened when the one before was read to its end.

    Raises InputError for one that cannot be read or has no samples.
    """
    for name in words.all or (STDIN,):
        with _file(name) as file:
            lines = Lines(file, title(name), limits.LINE_BYTES, "is it CSV?")
            yield Samples(name, Rows(lines, model.bundle.settings, words.on_error, words.keep))


@contextmanager
def _file(name: str, hint: str = "name a CSV file, or - for stdin") -> Iterator[IO[bytes]]:
    """Raises InputError."""
    if name == STDIN:
        if sys.stdin is None:
            raise UsageError("no input: stdin is closed", hint="name a CSV file")
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(name).open("rb"))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read {name!a}: {why}", hint=hint) from error
        yield file


def title(name: str) -> str:
    """An input's name in messages."""
    return "stdin" if name == STDIN else name


KINDS = {
    "text": Kind(texts, "texts", ("prompts", "files")),
    "query": Kind(texts, "texts", ("prompts", "files")),
    "chat": Kind(prompts, "texts", ("prompts", "files", "system")),
    "image": Kind(images, "images", ("images", "files"), image_names),
    "series": Kind(tables, "samples", ("prompts", "files", "on_error", "keep")),
    "arrays": Kind(arrays, "inputs", ("files",)),
}
