"""Download the files of one commit of a hub repository to the local cache, and check the hub's digests.

`huggingface_hub` does the transfer and owns the cache. What it lacks is added here: the first question is retried
too (it retries transfers), a file is compared with its digest (it never hashes), an unreachable hub is an error
instead of last week's answer, and every failure says what to do. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgekit.bundle import safe_files
from edgekit.errors import BundleError, SourceError, UsageError
from edgekit.source import hub_errors

T = TypeVar("T")
log = logging.getLogger("edgekit")

CONFIG = "config.json"
FIRST = (CONFIG, "modules.json")  # what tells a model: old sentence-transformers repositories have the second only
TIMEOUT = 10  # seconds to wait for the hub's first byte
RETRIES = 5
LONGEST_WAIT = 60  # seconds; a hub that asks for more is told to the user instead
AGAIN = (408, 429, 500, 502, 503, 504)  # statuses of a hub that may be better soon
CUT = {"ReadError", "WriteError", "CloseError", "RemoteProtocolError"}  # httpx: the connection broke under us
ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/\S*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository: its files, and what each must hash to (empty: known only from the cache)."""

    repo: str
    commit: str  # 40 hex digits
    digests: dict[str, str]  # name -> SHA-256 of a large file, git's SHA-1 of a small one
    offline: bool = False


def find(repo: str, revision: str | None = None, *, offline: bool = False) -> Snapshot:
    """The commit that `revision` (a branch, tag or commit; None: the default branch) names now, and its files.

    Offline (also by HF_HUB_OFFLINE=1) the local cache answers, and no socket is opened.
    Raises SourceError; UsageError for a revision or HF_ENDPOINT that cannot be one.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, is_offline_mode

    if revision is not None and not re.fullmatch(r"(?!.*\.\.)\w[\w./+-]*", revision):
        raise UsageError(f"{revision!r} is not a revision", hint="give a branch, a tag or a commit of 40 hex digits")
    if offline or is_offline_mode():
        return _cached(repo, revision)
    if not ADDRESS.fullmatch(constants.ENDPOINT):
        raise UsageError(
            f"HF_ENDPOINT is not an address: {constants.ENDPOINT!r}", hint="unset it, or start it with https://"
        )
    what = f"{repo} at {revision}" if revision else repo
    info = _asked(lambda: HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT), what, repo)
    pinned = revision is not None and COMMIT.fullmatch(revision)
    if not COMMIT.fullmatch(info.sha or "") or (pinned and info.sha != revision):
        raise SourceError(f"the hub does not name the commit of {what}", hint="check HF_ENDPOINT", commit=info.sha)
    digests = {item.rfilename: item.lfs.sha256 if item.lfs else item.blob_id or "" for item in info.siblings or ()}
    first = next((name for name in FIRST if name in digests), None)
    if first is not None:
        # Asked by name once, so that the cache notes which commit the name means, for --offline later.
        _asked(lambda: hf_hub_download(repo, first, revision=revision, etag_timeout=TIMEOUT), what, repo)
    return Snapshot(repo, info.sha, digests)


def download(snapshot: Snapshot, names: Iterable[str]) -> Path:
    """The folder in the cache that now holds these files, in the order given, each checked against its digest.

    What is there already is not fetched again, but it is hashed again: a kill between the two leaves no mark.
    Raises SourceError; BundleError for a file with a wrong digest or length, which is thrown out of the cache;
    ResourceError for a full disk.
    """
    from huggingface_hub import hf_hub_download

    folder = Path()
    for name in names:
        depth = len(safe_files.parts(name))

        def fetch(name: str = name) -> str:
            where = hf_hub_download(
                snapshot.repo,
                name,
                revision=snapshot.commit,
                etag_timeout=TIMEOUT,
                local_files_only=snapshot.offline,
            )
            return str(where)

        path = Path(_asked(fetch, f"{name} of {snapshot.repo}", snapshot.repo))
        _verify(path, snapshot.digests[name])
        folder = path.parents[depth - 1]
    return folder


def _cached(repo: str, revision: str | None) -> Snapshot:
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(repo, name, revision=revision) for name in FIRST)
    config = next((path for path in cached if isinstance(path, str)), None)  # else unknown, or known not to exist
    if config is None:
        what = f"{repo} at {revision}" if revision else repo
        raise SourceError(
            f"{what} is not in the local cache, and EdgeKit is offline",
            hint="run the command once online, without --offline and HF_HUB_OFFLINE, or name a local folder",
        )
    folder = Path(config).parent
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return Snapshot(repo, folder.name, {name: _blob(folder / name) for name in names}, offline=True)


def _blob(path: Path) -> str:
    """The digest by which the cache files the content: `path` links to blobs/DIGEST. Empty for a plain copy."""
    return os.readlink(path).rsplit("/", 1)[-1] if path.is_symlink() else ""


def _verify(path: Path, promised: str) -> None:
    """Raises BundleError, after removing the file from the cache, if its content is not what the hub promised."""
    if not promised:  # a cache without links holds no digests: then the structure checks must do
        return
    with safe_files.open_file(path) as file:
        if len(promised) == 64:
            found = safe_files.sha256(file)
        else:
            seed = b"blob %d\0" % path.stat().st_size  # how git hashes a file
            found = hashlib.file_digest(file, lambda: hashlib.sha1(seed, usedforsecurity=False)).hexdigest()
    if found == promised:
        return
    name = path.name
    while path.is_symlink():
        link, path = path, path.parent / os.readlink(path)
        link.unlink()
    path.unlink()
    raise BundleError(
        f"{name} does not have the digest that the hub states",
        hint="it was removed from the cache; run the command again to download it",
        expected=promised,
        actual=found,
    )


def _asked(ask: Callable[[], T], what: str, repo: str) -> T:
    """The hub's answer to `ask`, patiently: up to 5 more tries, 1, 2, 4, 8 and 8 s apart, or when the hub says.

    `huggingface_hub` itself repeats what fails while a file is being located or is cut while it is being transferred.
    A server's error in the transfer, and anything in the first question, it does not.
    """
    from huggingface_hub.errors import HTTPError

    tries = 0
    while True:
        try:
            return ask()
        except (HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            wait = _wait(error, tries)
            if tries == RETRIES or wait > LONGEST_WAIT or not _may_pass(error):
                raise hub_errors.explain(error, what, repo) from None
            log.info("%s: %s; trying again in %d s", what, type(error).__name__, wait)
        time.sleep(wait)
        tries += 1


def _may_pass(error: Exception) -> bool:
    return hub_errors.status(error) in AGAIN or bool(CUT & hub_errors.kinds(error))


def _wait(error: Exception, tries: int) -> int:
    response = getattr(error, "response", None)
    said = response.headers.get("Retry-After", "") if response is not None else ""
    return int(said) if re.fullmatch(r"[0-9]{1,9}", said) else min(8, 2**tries)
