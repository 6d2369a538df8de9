"""The bundle: a folder with a manifest, edgekit.json, that names every other file and its SHA-256.

`write` makes the manifest, and beside it the file of digests that covers it (`checksums`). `read` is the only door to
a bundle and trusts nothing before it has looked: the manifest is small, strict JSON of a known format that has its own
digest; every setting has the type and range that its task declares; every path is safe and every name means something;
every file has the size and the digest that it says; every .onnx file is one that an engine may see.
No engine and no onnx is needed for that, and nothing is written but a note of what was found right.
What a digest cannot say is who made the bundle: that needs a signature over the digests.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import msgspec

import edgekit
from edgekit import limits
from edgekit.bundle import (
    checksums,
    facts,
    not_a_bundle,
    onnx_file,
    ports,
    safe_files,
    settings,
    strict_json,
    user_files,
)
from edgekit.cache.digests import Memory
from edgekit.core import Bundle, Goldens, Graph, Source, Variant
from edgekit.errors import BundleError, UsageError
from edgekit.machine import system_calls

FORMAT = 3
MANIFEST = "edgekit.json"
OWN = (MANIFEST, checksums.FILE)  # files that the manifest does not list
Verify = Literal["always", "once", "never"]

_log = logging.getLogger("edgekit")
_HUB_ID = re.compile(r"([a-z]+:)?[\w.-]+(/[\w.-]+)?")
_READS = 8  # a folder that is replaced more often than this while it is read is not at rest
_DAMAGED = "copy or download the bundle again, or export the model again"


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must be."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(ge=0)]  # bytes


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`core.Source` without the folder that it had on the machine that made the bundle."""

    id: str
    arch: str
    revision: str
    config: dict[str, Any]
    random: bool


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """edgekit.json, in the order in which a person reads it."""

    format: int
    edgekit: str  # version that wrote it
    source: Origin
    tasks: tuple[str, ...]
    settings: dict[str, Any]
    variants: tuple[Variant, ...]
    goldens: Goldens | None
    files: dict[str, FileEntry]
    versions: dict[str, str]  # of the tools that made it


def write(bundle: Bundle, folder: Path, versions: dict[str, str]) -> None:
    """Digest every file in `folder` and write the manifest there, last. The same content gives the same bytes.

    The source is written without its folder. Raises BundleError where the bundle names a file that is not there,
    holds something that is not a JSON value, or could not be read back.
    """
    entries = {name: _entry(folder, name) for name in sorted(safe_files.walk(folder)) if name not in OWN}
    source = bundle.source
    origin = Origin(_portable_id(source.id), source.arch, source.revision, _portable(source.config), source.random)
    manifest = Manifest(
        FORMAT, edgekit.__version__, origin, bundle.tasks, bundle.settings, bundle.variants, bundle.goldens, entries,
        versions,
    )  # fmt: skip
    _check_values(manifest)
    _check_names(manifest)
    hint = "the exporter wrote it; please report the model"
    settings.check(manifest.tasks, manifest.settings, hint)
    facts.check(manifest.variants, hint)
    data = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"
    if len(data) > limits.MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST} would have {len(data)} bytes; {limits.MANIFEST_BYTES} are allowed",
            hint="keep long tables in a file of the bundle, not in the settings",
        )
    safe_files.write_file(folder / MANIFEST, data)
    digests = {name: entry.sha256 for name, entry in entries.items()}
    safe_files.write_file(folder / checksums.FILE, checksums.lines(MANIFEST, data, digests))
    system_calls.sync_folder(folder)


def read(folder: Path, *, verify: Verify = "once") -> Bundle:
    """The bundle in `folder`, after every check. Raises BundleError, DeviceError where it needs newer engines, and
    UsageError for a path that no engine can open.

    `verify`: compare digests "always", "once" (then remembered by each file's inode, size and times) or "never";
    sizes and .onnx files are looked at each time. A bundle that is replaced meanwhile is read again.
    """
    if verify not in get_args(Verify):
        raise UsageError(f"verify is {verify!r:.40}", hint=f"give one of {', '.join(get_args(Verify))}")
    root = Path(os.path.realpath(folder))  # once: from here on no link is followed
    if not os.path.exists(root):
        raise not_a_bundle.absent(str(folder))
    for _ in range(_READS):
        before = _identity(root)
        try:
            bundle = _read(root, verify)
        except (BundleError, OSError) as error:
            if _identity(root) != before:
                continue
            if isinstance(error, OSError):
                raise BundleError(f"{root} cannot be read: {error.strerror}", hint=_DAMAGED) from error
            raise
        if _identity(root) == before:
            return bundle
    raise BundleError(f"{root.name} was replaced several times while it was read", hint="wait for the export to end")


def fingerprint(bundle: Bundle) -> str:
    """What only this bundle has, wherever it lies: the digest of its manifest, which holds every file's."""
    with safe_files.open_regular(bundle.folder, MANIFEST) as file:
        return safe_files.sha256(file)


def file_bytes(bundle: Bundle) -> int:
    """The size on disk of all files in the bundle's folder, in bytes."""
    return sum((bundle.folder / name).lstat().st_size for name in safe_files.walk(bundle.folder))


def _read(root: Path, verify: Verify) -> Bundle:
    manifest = _manifest(root)
    _check_names(manifest)
    settings.check(manifest.tasks, manifest.settings, _DAMAGED)
    facts.check(manifest.variants, _DAMAGED)
    _check_files(root, manifest, verify)
    for name in manifest.files:
        if name.endswith(".onnx"):  # as every graph's name does
            # Links: `_check_files` has just compared digests, or refused every link.
            _check_ports(manifest, name, onnx_file.check(root, name, manifest.files.keys(), hard_links=True))
    origin = manifest.source
    return Bundle(
        root, Source(origin.id, origin.arch, root, origin.revision, origin.config, origin.random), manifest.tasks,
        manifest.settings, manifest.variants, manifest.goldens,
    )  # fmt: skip


# 1. The manifest is strict JSON of a format that is known, and each value has its type.


def _manifest(root: Path) -> Manifest:
    if not os.path.lexists(root / MANIFEST):
        raise not_a_bundle.other(root, MANIFEST)
    user_files.check_name(root)
    with safe_files.open_regular(root, MANIFEST) as file:
        data = file.read(limits.MANIFEST_BYTES + 1)
    if len(data) > limits.MANIFEST_BYTES:
        raise _wrong("$", f"the file has more than {limits.MANIFEST_BYTES} bytes")
    if not os.path.lexists(root / checksums.FILE):  # as in every bundle of an older format
        _check_format(strict_json.parse(data, MANIFEST, file=MANIFEST).get("format"))
    content = checksums.check_manifest(root, MANIFEST, data)
    raw = strict_json.parse(data, MANIFEST, file=MANIFEST)
    _check_format(raw.get("format"))
    _check_values(raw)
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{MANIFEST}: {error}", hint=_DAMAGED, file=MANIFEST) from None
    _check_keys(raw, msgspec.to_builtins(manifest), "$")
    digests = {name: entry.sha256 for name, entry in manifest.files.items()}
    checksums.check_files(MANIFEST, data, digests, content)
    return manifest


def _check_format(found: object) -> None:
    if type(found) is not int or found < 1:
        raise _wrong("$.format", f"is {found!r}, not a format's number")
    if found > FORMAT:
        raise BundleError(
            f"{MANIFEST} has format {found} and needs a newer edgekit: {edgekit.__version__} reads up to {FORMAT}",
            hint="update edgekit on this device", required=found, found=FORMAT,
        )  # fmt: skip
    if found < FORMAT:
        raise BundleError(
            f"{MANIFEST} has format {found}, which edgekit {edgekit.__version__} does not read",
            hint="export the model again", required=found, found=FORMAT,
        )  # fmt: skip


def _check_values(value: Any) -> None:
    """Only values that every JSON reader reads as the same."""
    for path, item in _leaves(value, "$"):
        if type(item) not in (str, int, float, bool, type(None)):
            raise _wrong(path, f"is a {type(item).__name__}, not a JSON value")
        if isinstance(item, float) and not math.isfinite(item):
            raise _wrong(path, f"is {item}, which JSON does not have")
        if isinstance(item, int) and abs(item) > limits.JSON_INTEGER:
            raise _wrong(path, "is an integer of more than 64 bits")
        if isinstance(item, str) and not item.isascii():
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise _wrong(path, "is not Unicode text") from None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key and every single value, with where it is."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise _wrong(path, f"has the key {key!r}, which is not text")
            yield path, key
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _check_keys(raw: Any, known: Any, path: str) -> None:
    """Nothing may be there that was not understood. msgspec does this for its own structs, not for dataclasses."""
    if isinstance(raw, dict):
        for key, item in raw.items():
            if key not in known:
                raise _wrong(f"{path}.{key}", "is a key that this version does not know")
            _check_keys(item, known[key], f"{path}.{key}")
    elif isinstance(raw, list):
        for index, (item, other) in enumerate(zip(raw, known)):
            _check_keys(item, other, f"{path}[{index}]")


# 2. Every path is safe, and every name means a thing that the manifest has.


def _check_names(manifest: Manifest) -> None:
    seen: dict[str, str] = {}
    for name in manifest.files:
        safe_files.parts(name)
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise _wrong("$.files", f"has {other!r} and {name!r}, which are one file on some systems")
    names = [variant.name for variant in manifest.variants]
    if not names or len(set(names)) != len(names):
        raise _wrong("$.variants", f"must be one or more of different names; they are {names}")
    if not manifest.tasks or len(set(manifest.tasks)) != len(manifest.tasks):
        raise _wrong("$.tasks", f"must be one or more different tasks; they are {list(manifest.tasks)}")
    for index, variant in enumerate(manifest.variants):
        graphs = [graph.name for graph in variant.graphs]
        if not graphs or len(set(graphs)) != len(graphs):
            raise _wrong(f"$.variants[{index}].graphs", f"must be one or more of different names; they are {graphs}")
        for number, graph in enumerate(variant.graphs):
            _check_graph(manifest, graph, f"$.variants[{index}].graphs[{number}]")
    if manifest.goldens is not None:
        _check_listed(manifest, manifest.goldens.file, "$.goldens.file")
        for key, stated in (("tolerances", manifest.goldens.tolerances), ("losses", manifest.goldens.losses)):
            if stated.keys() != set(names):
                raise _wrong(f"$.goldens.{key}", f"are of {sorted(stated)}, and the variants are {names}")


def _check_graph(manifest: Manifest, graph: Graph, path: str) -> None:
    _check_listed(manifest, graph.path, f"{path}.path")
    if not graph.path.endswith(".onnx"):
        raise _wrong(f"{path}.path", f"is {graph.path!r}, not an .onnx file")
    ranks = {port.name: len(port.shape) for port in graph.inputs}
    outputs = {port.name for port in graph.outputs}
    for state in graph.states:
        if state.into not in ranks or (state.out is not None and state.out not in outputs):
            raise _wrong(f"{path}.states", f"leads from {state.out!r} to {state.into!r}: the graph has no such ports")
        if state.axis is not None and not 0 <= state.axis < ranks[state.into]:
            raise _wrong(f"{path}.states", f"grows along axis {state.axis}, which {state.into!r} does not have")
    if graph.prompt is not None:
        if graph.prompt.prompt is not None:
            raise _wrong(f"{path}.prompt", "has a prompt graph of its own")
        _check_graph(manifest, graph.prompt, f"{path}.prompt")


def _check_listed(manifest: Manifest, name: str, path: str) -> None:
    if name not in manifest.files:
        raise _wrong(path, f"is {name!r}, which is not in $.files")


# 3. Every file is what the manifest says, and an .onnx file also what an engine may see.


def _check_files(root: Path, manifest: Manifest, verify: Verify) -> None:
    memory = Memory(root) if verify == "once" else None
    for name, entry in manifest.files.items():
        # A second name of the file does no harm where its content is known.
        with safe_files.open_regular(root, name, hard_links=verify != "never") as file:
            before = os.fstat(file.fileno())
            if before.st_size != entry.size:
                raise _changed(name, "bytes", entry.size, before.st_size)
            if verify == "never" or (memory and memory.knows(name, before, entry.sha256)):
                continue
            found = safe_files.sha256(file)
            if found != entry.sha256:
                raise _changed(name, "SHA-256", entry.sha256, found)
            if memory:
                memory.note(name, before, found)
    if memory:
        memory.save()
    for name in safe_files.walk(root):
        if name not in OWN and name not in manifest.files:
            _log.warning("%s holds a file that its manifest does not list; it is not used: %s", root.name, ascii(name))


def _check_ports(manifest: Manifest, name: str, stated: onnx_file.Facts) -> None:
    for graph in (graph for variant in manifest.variants for graph in variant.graphs):
        if graph.path == name:
            ports.check(graph, stated)
            ports.check_kind(graph)
        if graph.prompt is not None and graph.prompt.path == name:
            ports.check(graph.prompt, stated)


# What goes into the manifest when it is written.


def _entry(folder: Path, name: str) -> FileEntry:
    with safe_files.open_regular(folder, name) as file:
        return FileEntry(safe_files.sha256(file), os.fstat(file.fileno()).st_size)


def _portable_id(id: str) -> str:
    """The id without folders of this machine: a hub id as it is, of a path the last part."""
    if _HUB_ID.fullmatch(id):
        return id
    kind, colon, path = id.rpartition(":")
    return kind + colon + PurePosixPath(path).name


def _portable(value: Any) -> Any:
    """A config as JSON that every reader reads: no path of this machine, and infinity spelled as transformers does."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items() if key not in ("_name_or_path", "name_or_path")}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value


# What goes wrong.


def _wrong(path: str, why: str) -> BundleError:
    return BundleError(f"{MANIFEST}: {path} {why}", hint=_DAMAGED, file=MANIFEST, path=path)


def _changed(name: str, what: str, expected: object, actual: object) -> BundleError:
    message = f"{name} has changed: its {what} should be {expected}, but is {actual}"
    return BundleError(message, hint=_DAMAGED, file=name, expected=expected, actual=actual)


def _identity(root: Path) -> tuple[int, ...] | None:
    """Tells a folder from the one that takes its place."""
    try:
        found = root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
