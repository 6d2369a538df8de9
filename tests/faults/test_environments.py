"""The same export in environments that differ in everything that must not matter."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.bundle import safe_files

pytestmark = pytest.mark.slow
ODD = {
    "HOME": "/nonexistent", "TMPDIR": "/nonexistent", "TZ": "Asia/Kolkata", "LC_ALL": "tr_TR.UTF-8",
    "PYTHONHASHSEED": "7", "PYTHONUNBUFFERED": "1", "COLUMNS": "1", "TERM": "dumb",
}  # fmt: skip


def exported(folder: Path, umask: int, **environment: str) -> tuple[dict[str, str], dict[str, object]]:
    """The digests of the files, and what the manifest says but for times."""
    cache = {"XDG_CACHE_HOME": str(folder.with_suffix(".cache"))}
    words = ["export", "zoo:motor", "-o", str(folder), "--target", "cpu", "--precision", "fp32", "--precision", "int8"]
    ended = subprocess.run(
        [sys.executable, "-m", "edgekit", *words, "--json"],
        env=os.environ | cache | environment, umask=umask, capture_output=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["folder"] == str(folder)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in safe_files.walk(folder)}
    manifest = json.loads((folder / "edgekit.json").read_bytes())
    for variant in manifest["variants"]:
        variant["measured"] = {name: value for name, value in variant["measured"].items() if "millis" not in name}
    return {name: digest for name, digest in files.items() if not name.startswith("edgekit.")}, manifest


def test_the_same_bytes_in_any_environment(tmp_path: Path) -> None:
    assert exported(tmp_path / "a.ek", 0o022) == exported(tmp_path / "b.ek", 0o077, **ODD)
