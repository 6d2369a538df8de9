"""Turn exceptions of `huggingface_hub` into EdgeKit's errors, with the next step.

Exceptions are told apart by the names of their classes, because the transport library under `huggingface_hub`
changes its own name between versions (httpx, httpx2). No text that is made here holds the user's token.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

from edgekit.errors import BundleError, EdgeKitError, ResourceError, SourceError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TOKEN_HINT = "set HF_TOKEN or run `hf auth login`"

# The first row whose class is among the error's classes, or whose status is the answer's, explains it.
# {what} is what was asked for, {url} the repository's page.
EXPLANATIONS: tuple[tuple[str, int, str, str], ...] = (
    (
        "GatedRepoError",
        0,
        "{what} is gated: its owners want their terms accepted",
        f"accept them at {{url}}, then {TOKEN_HINT}",
    ),
    ("RevisionNotFoundError", 0, "the hub has no {what}", "{url}/tree/main shows the branches and tags"),
    ("EntryNotFoundError", 0, "the hub has no {what}", "{url}/tree/main shows the files that there are"),
    (
        "RepositoryNotFoundError",
        404,
        "the hub has no {what}, or hides it from you",
        f"check the spelling; for a private model {TOKEN_HINT}",
    ),
    (
        "",
        401,
        "the hub does not accept your token for {what}",
        "make a new token, or unset HF_TOKEN for a public model",
    ),
    ("", 403, "the hub forbids {what}", "see {url}: it may be disabled, or the token may lack the right to read it"),
    ("", 408, "the hub was too slow to serve {what}", "try again later; --offline uses what is in the cache"),
    ("", 429, "the hub has had too many requests from here ({what})", f"wait some minutes; {TOKEN_HINT} for more"),
    ("ServerError", 0, "the hub fails to serve {what}", "try again later; --offline uses what is in the cache"),
    (
        "TimeoutException",
        0,
        "the hub did not answer in time ({what})",
        "try again; --offline uses what is in the cache",
    ),
    ("NetworkError", 0, "the connection to the hub broke ({what})", "try again: finished files are kept"),
    ("RemoteProtocolError", 0, "the connection to the hub broke ({what})", "try again: finished files are kept"),
)
UNREACHABLE = "check the network and HF_ENDPOINT; --offline uses what is in the cache"


def status(error: BaseException) -> int:
    """The HTTP status of the answer that the error is about, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def kinds(error: BaseException) -> set[str]:
    """The names of the error's class and of what it derives from; `ServerError` for an answer from 500 up."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return names | {"ServerError"} if status(error) >= 500 else names


def explain(error: Exception, what: str, repo: str) -> EdgeKitError:
    """The error to raise instead: what happened to `what`, a file or a revision of `repo`, and the next step."""
    # "Cannot find it locally" is huggingface_hub's last word; the reason is what came before it.
    root = error.__cause__ if "LocalEntryNotFoundError" in kinds(error) and error.__cause__ else error
    cause = _redacted(str(root))
    url = _page(repo)
    if "ConnectError" in kinds(root):
        return SourceError(f"cannot reach {_host()}: {_reason(root)}", hint=UNREACHABLE, cause=cause)
    if "LocalEntryNotFoundError" in kinds(root):
        return SourceError(f"{what} is not in the local cache", hint="run the command once online", cause=cause)
    for kind, code, message, hint in EXPLANATIONS:
        if kind in kinds(root) or (code and code == status(root)):
            message, hint = message.format(what=what), hint.format(url=url)
            return SourceError(message, hint=hint, cause=cause, status=status(root) or None)
    if isinstance(root, OSError) and not {"HTTPError", "FileMetadataError"} & kinds(root):
        return _disk(root, what, cause)
    return SourceError(
        f"{_host()} does not answer like a Hugging Face hub ({what})",
        hint="check HF_ENDPOINT and any proxy in between",
        cause=cause,
    )


def _disk(error: OSError, what: str, cause: str) -> EdgeKitError:
    if "Consistency check failed" in cause:
        return BundleError(f"{what} came with the wrong length", hint="try again; nothing was kept", cause=cause)
    if error.errno in FULL:
        return ResourceError(f"no space on the disk for {what}", hint="free space, or set HF_HUB_CACHE", cause=cause)
    hint = "set HF_HUB_CACHE to a folder that you may write to"
    return ResourceError(f"the hub's local cache cannot hold {what}", hint=hint, cause=cause)


def _reason(error: BaseException) -> str:
    for step in _chain(error):
        if isinstance(step, socket.gaierror):
            return "its name is not known (DNS)"
        if isinstance(step, ConnectionRefusedError):
            return "the connection was refused"
    return "no connection"


def _chain(error: BaseException) -> Iterator[BaseException]:
    step: BaseException | None = error
    while step is not None:
        yield step
        step = step.__cause__ or step.__context__


def _redacted(text: str) -> str:
    """Without the user's token, which a server may echo, and without the signatures in a storage address."""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "[token]") if token else text
    return re.sub(r"\?\S+", "?[…]", text)


def _host() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _page(repo: str) -> str:
    return f"{_host()}/{repo}"
